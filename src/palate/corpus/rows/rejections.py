"""Rows that give no record, and why.

Two kinds, because they call for different things:

    Malformed   the row is not what its format says: broken JSON, a missing field, a wrong type. Someone should look: a
                training stage stops at the first one.
    Unusable    the row is as its format says and still holds nothing to learn from: an empty response, two identical
                ones, a pair of dialogues that part before their last turn, a message nobody ranked. Counted and shown,
                never an error.

Records that say what an earlier one said are counted beside them (see `duplicates`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EXAMPLES = 3
_LONGEST = 60


class Rejected(Exception):
    """A row, or a part of one, that gives no record.

    Args:
        reason: the same for every such row; names the field as it stands in the file.
        found: what stands there instead, where that is worth showing.
    """

    def __init__(self, reason: str, *, found: Any = None) -> None:
        self.found = "" if found is None else shown(found)
        super().__init__(reason)

    @property
    def was_raised(self) -> bool:
        """Whether reading ended there, and not only a part was found to be of no use."""
        return self.__traceback__ is not None

    @property
    def text(self) -> str:
        """The reason with what was found."""
        return f"{self}; found {self.found}" if self.found else str(self)


def shown(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


class Malformed(Rejected):
    """Not what the format says."""


class Unusable(Rejected):
    """What the format says, but nothing to learn from."""


@dataclass(slots=True)
class Rejections:
    """Counts by reason, with the first places where each was met.

    Attributes:
        malformed: number of rows by reason, for rows that break their format.
        unusable: number of rows (or parts of rows) by reason, for those that hold nothing to learn from.
        examples: the first three `file:line` of every reason.
        found: what stood at the first of them.
        duplicates: records that said exactly what an earlier one said, and were left out.
        repeated: judgements of responses that the same labeler, or nobody by name, had judged before, by what was made
            of them.
    """

    malformed: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0
    repeated: Counter[str] = field(default_factory=Counter)

    def add(self, problem: Rejected, path: Path | str, line: int) -> None:
        """Count one rejected row."""
        reason = str(problem)
        (self.malformed if isinstance(problem, Malformed) else self.unusable)[reason] += 1
        self.found.setdefault(reason, problem.found)
        places = self.examples.setdefault(reason, [])
        if len(places) < _EXAMPLES:
            places.append(f"{path}:{line}")

    def update(self, other: Rejections) -> None:
        """Count those of other files too."""
        self.malformed.update(other.malformed)
        self.unusable.update(other.unusable)
        self.repeated.update(other.repeated)
        self.duplicates += other.duplicates
        for reason, places in other.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + places)[:_EXAMPLES]
            self.found.setdefault(reason, other.found[reason])

    @property
    def total(self) -> int:
        """Rows of both kinds."""
        return self.malformed.total() + self.unusable.total()

    def __str__(self) -> str:
        lines = [
            f"{title} {count}: {self._reason(reason)} ({self._places(reason, count)})"
            for title, counts in (("malformed", self.malformed), ("unusable", self.unusable))
            for reason, count in counts.most_common()
        ]
        if self.duplicates:
            lines.append(f"duplicates {self.duplicates}: exactly what an earlier record says; left out")
        lines.extend(f"repeated {count}: {what}" for what, count in self.repeated.most_common())
        return "\n".join(lines)

    def _reason(self, reason: str) -> str:
        found = self.found.get(reason)
        return f"{reason}; found {found}" if found else reason

    def _places(self, reason: str, count: int) -> str:
        return ", ".join(self.examples[reason]) + (", ..." if count > _EXAMPLES else "")
