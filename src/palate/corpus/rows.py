"""A row of a file, as the containers give it and the formats take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palate.corpus.rejections import Rejected


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
