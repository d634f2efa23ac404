"""What a key of a recipe does: two values of it, and what must differ between their runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.stages.effects.runs import Outcome, Spoil

Effect = Callable[[Outcome, Outcome], None]
"""Asserts what the first and the second value of a key must have done."""


@dataclass(frozen=True)
class Row:
    """One key of one recipe.

    Attributes:
        key: as in a recipe, with dots; a number picks one of several sections: ``rewards.0.weight``.
        values: two of them, each in a run of its own; None leaves the key out. ``$name`` is a path of `files`.
        effect: what must come of it.
        given: other keys, in both runs.
        spoil: what a faulty sampler does in both runs.
        only_reads: a section; both runs end as soon as it was read, which is all that the key has to do with.
    """

    key: str
    values: tuple[Any, Any]
    effect: Effect
    given: Mapping[str, Any] = field(default_factory=dict)
    spoil: Spoil | None = None
    only_reads: str = ""

    @property
    def name(self) -> str:
        """The key without the numbers of sections."""
        return ".".join(part for part in self.key.split(".") if not part.isdigit())


def under(section: str, rows: list[Row]) -> list[Row]:
    """The rows of a section's keys where a recipe has the section."""
    return [replace(row, key=f"{section}.{row.key}") for row in rows]
