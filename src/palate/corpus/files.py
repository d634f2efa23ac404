"""Rows out of files, one at a time: JSON lines, a JSON array, CSV, TSV, Parquet or plain text, each optionally `.gz`.

A file is never held whole: a JSON array is decoded element by element out of a sliding window of text. Every row knows
where it stands: its line, or in a JSON array or a Parquet file its place among the rows, counted from 1. A broken line
is a row with a problem and reading goes on; a broken array or a damaged archive ends there.

Left out: guessing encodings (UTF-8 only, with or without a byte order mark) and delimiters (comma or tab).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import importlib
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from palate.corpus.public.sets import remedy
from palate.corpus.rejections import Malformed, Rejected
from palate.errors import DataError, MissingExtraError

Stream: TypeAlias = io.BufferedReader | gzip.GzipFile

_CHUNK = 1 << 16  # characters read from a JSON array at a time
_LONGEST_ELEMENT = 1 << 28  # an element this long is a string that was never closed
_LONGEST_CELL = 1 << 28  # the csv module's own limit of 131,072 is shorter than some dialogues
_TEXT_CHUNK = 4000  # characters after which a plain text is cut at the next blank line; twice as many: at any line
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, or the problem that stands in its place."""

    line: int
    fields: Mapping[str, Any]
    problem: Rejected | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """Stream the rows of a file; its name's ending says how it is written.

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
        with _open(path) as stream:
            yield from reader(stream, path)
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


def escape_cell(text: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula; `unescape_cell` undoes it exactly."""
    return "'" + text if _FORMULA.match(text) else text


def unescape_cell(text: str) -> str:
    """Undo `escape_cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _open(path: Path) -> Stream:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _json(stream: Stream, path: Path) -> Iterator[Row]:
    """Lines or one array: what the first character says, since files are often named after the other."""
    start = stream.peek(1 << 10).removeprefix(codecs.BOM_UTF8).lstrip()
    return _json_array(stream) if start.startswith(b"[") else _json_lines(stream)


def _json_lines(stream: Stream) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not text.strip():
            continue
        try:
            yield _object_row(number, json.loads(text.decode()), look=bool(_ESCAPED_HALF.search(text)))
        except (ValueError, RecursionError) as error:
            yield Row(number, {}, Malformed(_json_reason(error)))


def _json_array(stream: Stream) -> Iterator[Row]:
    number = 0
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            for number, value in enumerate(_elements(_Window(text)), 1):
                yield _object_row(number, value, look=True)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        reason = f"{_json_reason(error)}; what follows in this array cannot be read"
        yield Row(number + 1, {}, Malformed(reason))


def _elements(window: _Window) -> Iterator[Any]:
    window.take("[")
    if window.next_character() != "]":
        yield window.next_value()
    while (found := window.next_character()) != "]":
        if found != ",":
            raise ValueError("no comma between two elements" if found else "the array does not end")
        window.take(",")
        yield window.next_value()


class _Window:
    """The part of a JSON text that is being decoded."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text, self.position = stream, "", 0

    def next_character(self) -> str:
        """The next one that is not blank, left in place; empty at the end of the text."""
        while True:
            self.position = _BLANK.match(self.text, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._grow(_CHUNK):
                return ""

    def take(self, character: str) -> None:
        """Go past a character that is known to come next."""
        assert self.next_character() == character
        self.position += 1

    def next_value(self) -> Any:
        """Decode one value, reading on while it is cut off by the window's end."""
        self.next_character()
        size = _CHUNK
        while True:
            try:
                value, self.position = _DECODER.raw_decode(self.text, self.position)
                return value
            except json.JSONDecodeError as error:
                if not (_cut_off(error) and self._grow(size)):
                    raise
                size *= 2  # a long element is tried a logarithmic number of times

    def _grow(self, size: int) -> bool:
        if len(self.text) - self.position > _LONGEST_ELEMENT:
            return False
        more = self.stream.read(size)
        self.text, self.position = self.text[self.position :] + more, 0
        return bool(more)


_DECODER = json.JSONDecoder()


def _cut_off(error: json.JSONDecodeError) -> bool:
    """Whether more text could mend it: the error is at the very end, or a string was still open there."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc) - len("-Infinity")


def _object_row(number: int, value: Any, *, look: bool) -> Row:
    if look and has_half_character(value):
        return Row(number, {}, Malformed("half a character (a lone surrogate), which is no text"))
    if isinstance(value, dict):
        return Row(number, value)
    return Row(number, {}, Malformed("not a JSON object: a row is written {...}"))


def has_half_character(value: Any) -> bool:
    """Whether a JSON value holds a text that cannot be written down: JSON can escape a lone surrogate."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _json_reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({error.msg})"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return "broken JSON (nested too deeply)" if isinstance(error, RecursionError) else f"broken JSON ({error})"


def _csv(stream: Stream, path: Path) -> Iterator[Row]:
    return _table(stream, path, ",")


def _tsv(stream: Stream, path: Path) -> Iterator[Row]:
    return _table(stream, path, "\t")


def _table(stream: Stream, path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)  # strict: an open quote would swallow the rest
        header = _header(reader, path)
        while True:
            line = reader.line_num + 1
            try:
                yield from _table_row(line, header, next(reader))
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(line, {}, Malformed(f"broken CSV ({error})"))


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(f"broken CSV ({error})", path=path, line=1) from None
    if len(set(header)) < len(header) or not all(header):
        raise DataError("the first line must name every column once", path=path, line=1)
    return header


def _table_row(line: int, header: Sequence[str], cells: Sequence[str]) -> Iterator[Row]:
    if not cells:
        return
    if len(cells) != len(header):
        yield Row(line, {}, Malformed("not as many cells as there are columns"))
    else:
        yield Row(line, dict(zip(header, map(unescape_cell, cells), strict=True)))


def _parquet(stream: Stream, path: Path) -> Iterator[Row]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet") from None
    with tempfile.TemporaryFile() as copy:
        if isinstance(stream, gzip.GzipFile):
            shutil.copyfileobj(stream, copy)  # Parquet is read from its end, which gzip cannot seek to
        try:
            table = parquet.ParquetFile(copy if isinstance(stream, gzip.GzipFile) else stream)
            fields = (row for batch in table.iter_batches(batch_size=256) for row in batch.to_pylist())
            yield from (Row(number, row) for number, row in enumerate(fields, 1))
        except ValueError as error:  # pyarrow.ArrowInvalid is one
            raise DataError(f"not a readable Parquet file ({str(error).splitlines()[0]})", path=path) from None


def _plain_text(stream: Stream, path: Path) -> Iterator[Row]:
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


_READERS: Mapping[str, Callable[[Stream, Path], Iterator[Row]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _plain_text,
    ".md": _plain_text,
}
