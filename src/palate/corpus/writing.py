"""Files written whole or not at all: under a temporary name first, renamed when everything is in them."""

from __future__ import annotations

import errno
import gzip
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from palate.errors import DataError, DiskFullError


@dataclass(slots=True)
class Output:
    """A file in the making; with `keep` set to False it never appears."""

    stream: TextIO
    keep: bool = True


@contextmanager
def output(path: Path) -> Iterator[Output]:
    """Write a text file, gzipped if its name ends in `.gz`; nothing is left behind by an error.

    Raises:
        DataError: the file cannot be written.
        DiskFullError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _open(temporary, gzipped=path.name.lower().endswith(".gz")) as stream:
            result = Output(stream)
            yield result
        if result.keep:
            temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(f"{path}: the disk is full; nothing was written") from None
        raise DataError(f"cannot be written ({error.strerror or error})", path=path) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _open(path: Path, *, gzipped: bool) -> Iterator[TextIO]:
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("wb"))
        # no name and no time in the archive: the same rows give the same bytes
        packed = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)) if gzipped else raw
        yield stack.enter_context(io.TextIOWrapper(packed, encoding="utf-8", newline=""))
