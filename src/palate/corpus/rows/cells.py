"""Cells that hold a conversation spelled out in text, as JSON or as Python prints a list.

Programs that keep tables write `[{'role': 'user', ...}]` into a cell; learned as it stands, the punctuation would be
learned. A column is read as what it spells out if it does so in all rows that were looked at, so that a single answer
that happens to be JSON stays a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from palate.corpus.rows.rejections import Malformed
from palate.corpus.rows.row import Row
from palate.corpus.rows.turns import is_dialogue
from palate.corpus.rows.values import structure_in

_LOOKS = re.compile(
    r"""\s*(?:array\()?(?:\[\s*\{\s*|\{\s*)(?:['"](?:role|from|content|value|messages|conversations)['"])\s*:"""
)


def spelled_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns whose every text looks like a list of turns."""
    texts: dict[str, bool] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str) and value.strip():
                texts[name] = texts.get(name, True) and _LOOKS.match(value) is not None
            elif isinstance(value, list | dict):
                texts[name] = False
    return tuple(name for name, spelled in texts.items() if spelled)


def spelled_out(rows: Iterator[Row], columns: Sequence[str]) -> Iterator[Row]:
    """The rows with the texts of these columns as the lists that they spell."""
    return (_row(row, columns) for row in rows) if columns else rows


def _row(row: Row, columns: Sequence[str]) -> Row:
    fields = dict(row.fields)
    for name in columns:
        value = fields.get(name)
        if not isinstance(value, str) or not value.strip():
            continue
        found = structure_in(value)
        if not is_dialogue(found):
            problem = Malformed(
                f"field {name!r} is no list of turns, as it is in other rows: neither in JSON nor as Python prints it",
                found=value,
            )
            return row if row.problem else replace(row, problem=problem)
        fields[name] = found
    return row if row.problem else replace(row, fields=fields)
