"""Rows that give no record, and why.

Two kinds, because they call for different things:

    Malformed   the row is not what its format says: broken JSON, a missing field, a wrong type, two identical
                responses in a pair. Someone should look: a training stage stops at the first one.
    Unusable    the row is as its format says and still holds nothing to learn from: an empty response, a pair of
                dialogues that part before their last turn, a message nobody ranked. Counted and shown, never an error.

Exact duplicates are counted beside them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_EXAMPLES = 3


class Rejected(Exception):
    """A row, or a part of one, that gives no record; the message is the reason and the same for every such row."""


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
        duplicates: records that said exactly what an earlier one said.
    """

    malformed: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    duplicates: int = 0

    def add(self, problem: Rejected, path: Path | str, line: int) -> None:
        """Count one rejected row."""
        reason = str(problem)
        (self.malformed if isinstance(problem, Malformed) else self.unusable)[reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < _EXAMPLES:
            places.append(f"{path}:{line}")

    @property
    def total(self) -> int:
        """Rows of both kinds."""
        return self.malformed.total() + self.unusable.total()

    def __str__(self) -> str:
        lines = [
            f"{title} {count}: {reason} ({', '.join(self.examples[reason])}{', ...' if count > _EXAMPLES else ''})"
            for title, counts in (("malformed", self.malformed), ("unusable", self.unusable))
            for reason, count in counts.most_common()
        ]
        if self.duplicates:
            lines.append(f"duplicates {self.duplicates}: exactly what an earlier record says")
        return "\n".join(lines)
