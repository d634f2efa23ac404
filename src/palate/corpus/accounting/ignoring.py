"""Columns that the user wants left out: taken away before anything is read, and counted; each must be somewhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from palate.corpus.accounting.account import Account
from palate.corpus.rows.fields import has_value, without
from palate.corpus.rows.row import Row
from palate.errors import DataError


class Ignored:
    """Names of columns, nested ones with dots, and which of them were met in all files so far."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._met: set[str] = set()
        self._columns: dict[str, None] = {}

    def rows(self, rows: Iterator[Row], account: Account) -> Iterator[Row]:
        """The rows without these columns; the account is told how many rows had something in each."""
        return (self._row(row, account) for row in rows) if self.names else rows

    def _row(self, row: Row, account: Account) -> Row:
        fields = row.fields
        self._columns.update(dict.fromkeys(fields))
        left, met = without(fields, self.names)
        self._met |= met
        account.ignored.update(name for name in met if _had_value(fields, left, name))
        return replace(row, fields=left) if met else row

    def left_of(self, beside: Mapping[str, Any]) -> dict[str, Any]:
        """What stands around all rows, without these columns."""
        left, met = without(beside, self.names)
        self._met |= met
        return left

    def check(self, path: Path | str) -> None:
        """After the last row: every column was somewhere.

        Raises:
            DataError: one was nowhere.
        """
        for name in self.names:
            if name not in self._met:
                near = difflib.get_close_matches(name, self._columns, n=1)
                meant = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(self._columns)}"
                raise DataError(f"ignore: no row has a column {name!r}; {meant}", path=path)


def _had_value(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> bool:
    top = name if name in before else name.partition(".")[0]
    return has_value(before[top]) and before[top] != after.get(top)
