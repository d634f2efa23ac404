"""Rows out of tables: comma- and tab-separated text, and Parquet.

A column without a name, such as the index that programs for tables write before the first one, is called by its place.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from palate.corpus.rows.rejections import Malformed
from palate.corpus.rows.row import Row
from palate.errors import DataError, MissingExtraError

_LONGEST_CELL = 1 << 28  # the csv module's own limit of 131,072 is shorter than some dialogues
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def table_rows(stream: io.BufferedReader, path: Path, delimiter: str) -> Iterator[Row]:
    """The rows of a table whose first line names the columns; semicolons may stand for commas."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    first = stream.readline(_LONGEST_CELL)
    stream.seek(0)
    if delimiter == "," and b"," not in first and b";" in first:
        delimiter = ";"  # as spreadsheets write it where the comma divides decimals
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)  # strict: an open quote would swallow the rest
        header = _header(reader, path)
        while True:
            line = reader.line_num + 1
            try:
                yield from _row(line, header, next(reader))
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(line, {}, Malformed(f"broken CSV ({error})"))


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(f"broken CSV ({error})", path=path, line=1) from None
    named = [name or f"(column {place}, without a name)" for place, name in enumerate(header, 1)]
    if not any(header):
        raise DataError("the first line must name the columns", path=path, line=1)
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise DataError(f"the first line names {twice[0]!r} more than once", path=path, line=1)
    return named


def _row(line: int, header: Sequence[str], cells: Sequence[str]) -> Iterator[Row]:
    if not cells:
        return
    if len(cells) != len(header):
        yield Row(line, {}, Malformed(f"not as many cells as the {len(header)} columns", found=f"{len(cells)} cells"))
    else:
        yield Row(line, dict(zip(header, map(unescape_cell, cells), strict=True)))


def escape_cell(text: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula; `unescape_cell` undoes it exactly."""
    return "'" + text if _FORMULA.match(text) else text


def unescape_cell(text: str) -> str:
    """Undo `escape_cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def parquet_rows(stream: io.BufferedReader | gzip.GzipFile, path: Path) -> Iterator[Row]:
    """The rows of a Parquet file, some hundreds in memory at a time.

    Raises:
        MissingExtraError: without pyarrow.
    """
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
