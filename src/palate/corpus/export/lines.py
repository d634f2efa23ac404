"""Rows as text: JSON lines, one JSON array, or a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any, Protocol

from palate.corpus.containers.files import escape_cell
from palate.corpus.rows.rejections import Unusable


class Lines(Protocol):
    """What makes text of rows."""

    end: str

    def __call__(self, row: Mapping[str, Any]) -> str:
        """The text of one row."""


class JSONLines:
    """An object on each line."""

    end = ""

    def __call__(self, row: Mapping[str, Any]) -> str:
        """One line."""
        return json.dumps(row, ensure_ascii=False) + "\n"


class JSONArray:
    """One array of objects, each on a line of its own."""

    def __init__(self) -> None:
        self.end = ""

    def __call__(self, row: Mapping[str, Any]) -> str:
        """An element, and what stands before it."""
        before, self.end = (",\n" if self.end else "[\n"), "\n]\n"
        return before + json.dumps(row, ensure_ascii=False)


class CSVLines:
    """Lines of a table whose columns are the first row's; cells that look like formulas are escaped."""

    end = ""

    def __init__(self) -> None:
        self.columns: tuple[str, ...] = ()

    def __call__(self, row: Mapping[str, Any]) -> str:
        """One line, after the header if it is the first."""
        if not self.columns:
            self.columns = tuple(row)
            return self._line(self.columns) + self(row)
        if tuple(row) != self.columns:
            raise Unusable("another kind of record than the table's first: export each kind to a file of its own")
        return self._line(tuple("" if row[name] is None else str(row[name]) for name in self.columns))

    @staticmethod
    def _line(cells: tuple[str, ...]) -> str:
        line = io.StringIO()
        csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(map(escape_cell, cells))
        return line.getvalue()
