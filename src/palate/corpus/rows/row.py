"""A row of a file, and what may be around all of them, as the containers give it and the formats take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from palate.corpus.rows.rejections import Rejected


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, or the problem that stands in its place.

    Attributes:
        members: where one row was made of several, what stands before the names of their fields and not in the file.
    """

    line: int
    fields: Mapping[str, Any]
    problem: Rejected | None = None
    members: str = ""


@dataclass(slots=True)
class Wrapper:
    """The object in which a file has its rows, if it has one.

    Attributes:
        key: under which they stand; empty where they stand by themselves.
        beside: what else the object says.
    """

    key: str = ""
    beside: dict[str, Any] = field(default_factory=dict)
