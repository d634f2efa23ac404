"""The first records of a file as they would be read: what a page shows before somebody decides how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from palate.corpus.accounting.account import Account
from palate.corpus.catalogue.format import Item
from palate.corpus.containers.files import read_rows
from palate.corpus.reading import iterate
from palate.corpus.rows.fields import has_value
from palate.corpus.rows.rejections import Rejections, shown
from palate.errors import DataError

_LOOKED_AT = 40  # rows


@dataclass(slots=True)
class Preview:
    """The beginning of a file.

    Attributes:
        columns: its columns, each with what stands in the first row that has it.
        records: the first ones, each with its line.
        account: in which format they were read, why, what else it could be, and what became of every column.
        rejections: rows among those looked at that gave none.
        problem: why the file cannot be read like this at all; empty if it can.
    """

    account: Account
    columns: dict[str, str] = field(default_factory=dict)
    records: list[tuple[int, Item]] = field(default_factory=list)
    rejections: Rejections = field(default_factory=Rejections)
    problem: str = ""


def preview(
    path: Path,
    *,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    ignore: Sequence[str] = (),
    verdicts: Mapping[str, str] | None = None,
    count: int = 5,
) -> Preview:
    """Read the beginning of a file as `iterate` would; nothing that is wrong with it raises.

    Args:
        count: of records to show.
    """
    found = Preview(Account(path, stops=False))
    try:
        for row in islice(read_rows(path), _LOOKED_AT):
            for name, value in row.fields.items():
                if has_value(value):
                    found.columns.setdefault(name, shown(value))
        records = iterate(
            path,
            rejections=found.rejections,
            account=found.account,
            format=format,
            fields=fields,
            tags=tags,
            ignore=ignore,
            verdicts=verdicts,
            most_rows=_LOOKED_AT,
        )
        found.records = list(islice(records, count))
    except DataError as error:
        found.problem = str(error)
    return found
