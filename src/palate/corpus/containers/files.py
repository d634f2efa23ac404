"""Rows out of files, one at a time: JSON in its shapes, CSV, TSV, Parquet or plain text, each optionally `.gz`.

A file is never held whole. Every row knows where it stands: its line, or in a JSON array or a Parquet file its place
among the rows, counted from 1. A broken line is a row with a problem and reading goes on; a broken array or a damaged
archive ends there.

Left out: guessing encodings (UTF-8 only, with or without a byte order mark) and delimiters (comma or tab).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from palate.corpus.containers.json_text import has_half_character, json_rows
from palate.corpus.containers.tables import escape_cell, parquet_rows, table_rows, unescape_cell
from palate.corpus.public.sets import remedy
from palate.corpus.rows.row import Row, Wrapper
from palate.errors import DataError

__all__ = ["Row", "escape_cell", "file_suffix", "has_half_character", "read_rows", "sha256", "unescape_cell"]

Stream: TypeAlias = io.BufferedReader  # a GzipFile is used like one

_TEXT_CHUNK = 4000  # characters after which a plain text is cut at the next blank line; twice as many: at any line


def read_rows(
    path: Path, *, around: Wrapper | None = None, watch: Callable[[int], None] | None = None
) -> Iterator[Row]:
    """Stream the rows of a file; its name's ending says how it is written.

    Args:
        around: is told of the object that wraps the rows, if one does, after the last of them.
        watch: is told how many bytes were read, whenever some were.

    Raises:
        DataError: no such file, an unknown ending, a damaged archive, text that is not UTF-8.
        MissingExtraError: a Parquet file without pyarrow.
    """
    reader = _READERS.get(file_suffix(path))
    if reader is None:
        raise DataError(
            f"cannot be read: its name should end in one of {', '.join(_READERS)} (or one with .gz)", path=path
        )
    try:
        with _open(path, watch) as stream:
            yield from reader(stream, path, around or Wrapper())
    except DataError as error:
        raise error if error.path else DataError(str(error), path=path) from None
    except FileNotFoundError:
        raise DataError("no such file" + remedy(path), path=path) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text ({error.reason}); convert it first, for example with iconv", path=path
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"a damaged or cut-off gzip file ({error})", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path) from None


def file_suffix(path: Path) -> str:
    """The ending that tells the kind of file, without `.gz`: `.jsonl` for `pairs.jsonl.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def sha256(path: Path) -> str:
    """Hash of the file's bytes as they lie on the disk."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Watched(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, watch: Callable[[int], None]) -> None:
        super().__init__(path)
        self._watch = watch

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        count = super().readinto(buffer)
        self._watch(count)
        return count


@contextmanager
def _open(path: Path, watch: Callable[[int], None] | None) -> Iterator[Stream]:
    with ExitStack() as stack:
        raw: Any = stack.enter_context(io.BufferedReader(_Watched(path, watch)) if watch else path.open("rb"))
        unpacked: Any = stack.enter_context(gzip.open(raw)) if path.name.lower().endswith(".gz") else raw
        yield unpacked


def _plain_text(stream: Stream) -> Iterator[Row]:
    """Paragraphs packed into rows of some thousand characters, cut at blank lines where there are any."""
    lines: list[str] = []
    size = start = 0
    number = 1
    with io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
        while line := text.readline(2 * _TEXT_CHUNK):
            start = start or number
            lines.append(line)
            size += len(line)
            number += line.endswith("\n")
            if size >= (2 if line.strip() else 1) * _TEXT_CHUNK:
                yield from _text_row(start, lines)
                lines, size, start = [], 0, 0
    yield from _text_row(start, lines)


def _text_row(start: int, lines: Sequence[str]) -> Iterator[Row]:
    if text := "".join(lines).strip():
        yield Row(start, {"text": text})


_Reader: TypeAlias = Callable[[Stream, Path, Wrapper], Iterator[Row]]
_READERS: Mapping[str, _Reader] = {
    ".jsonl": lambda stream, path, around: json_rows(stream, around),
    ".ndjson": lambda stream, path, around: json_rows(stream, around),
    ".json": lambda stream, path, around: json_rows(stream, around),
    ".csv": lambda stream, path, around: table_rows(stream, path, ","),
    ".tsv": lambda stream, path, around: table_rows(stream, path, "\t"),
    ".parquet": lambda stream, path, around: parquet_rows(stream, path),
    ".txt": lambda stream, path, around: _plain_text(stream),
    ".md": lambda stream, path, around: _plain_text(stream),
}
