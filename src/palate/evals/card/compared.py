"""Scores of two models' sections to rows of a card: each measure before and after, its paired difference, a verdict.

The measures that are `compared` are one family, whose probabilities are corrected together; what stands beside them is
there to be read, and is not corrected. Of multiple choice there is one more: the Brier score over all its questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from palate.evals.card.paired import Paired, holm, paired
from palate.evals.protocols.choices import BRIER
from palate.evals.protocols.items import Measure, Protocol, Scores
from palate.intervals import Estimate, Floats, ratio_estimate

LEVEL = 0.05
"""Of the whole family."""
POOLED = "choices"
"""The section of all questions with choices together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measure of a section.

    Attributes:
        section: its name.
        title: of the section.
        num_items: that both models answered.
        before: absent where there is no baseline.
        luck: what guessing comes to on these items; absent where there is no such thing.
        change: of the paired scores; absent where there is no baseline.
        corrected: its probability, corrected for the family; absent where it is not of the family, or undefined.
    """

    section: str
    title: str
    measure: Measure
    num_items: int
    after: Estimate
    before: Estimate | None = None
    change: Paired | None = None
    corrected: float | None = None
    luck: float | None = None

    @property
    def is_luck(self) -> bool:
        """Whether no model that was measured is known to do better than guessing."""
        found = [self.after] if self.before is None else [self.after, self.before]
        return self.luck is not None and all(each.low is None or each.low <= self.luck for each in found)

    @property
    def name(self) -> str:
        """Of section and measure, once where they are the same word."""
        return self.title if self.title.lower() == self.measure.label else f"{self.title}: {self.measure.label}"

    @property
    def verdict(self) -> str:
        """What may be said."""
        if self.corrected is None or self.change is None or self.change.difference.value is None:
            return ""
        if self.corrected >= LEVEL:
            return "not told apart"
        if abs(self.change.difference.value) < self.measure.trifle:
            return "a trifle"
        if self.measure.better == "neither":
            return "changed"
        return "better" if (self.change.difference.value > 0) == (self.measure.better == "higher") else "worse"


def rows_of(
    protocols: Mapping[str, Protocol],
    after: Mapping[str, Sequence[Scores]],
    before: Mapping[str, Sequence[Scores]] | None,
    *,
    seed: int,
) -> list[Row]:
    """Every measure of every section.

    Args:
        protocols: by the section's name.
        after, before: the scores of the same items, by section; ``before`` is absent where there is no baseline.
    """
    rows = []
    for name, protocol in protocols.items():
        new, old = after[name], None if before is None else before[name]
        if protocol.across is not None:
            new, old = protocol.across(new), None if old is None else protocol.across(old)
        rows += [_row(name, protocol.title, measure, new, old, seed) for measure in protocol.measures]
    chosen = [name for name, protocol in protocols.items() if BRIER in protocol.measures]
    if chosen:
        all_after = [score for name in chosen for score in after[name]]
        all_before = None if before is None else [score for name in chosen for score in before[name]]
        pooled = replace(BRIER, label="Brier score of probabilities", compared=True)
        rows.append(_row(POOLED, "All choices", pooled, all_after, all_before, seed))
    family = {
        id(row): row.change.p
        for row in rows
        if row.measure.compared and row.change is not None and row.change.difference.value is not None
    }  # what no item was asked for (no prompt that should be refused, say) is no comparison
    by_row = dict(zip(family, holm(list(family.values())), strict=True))
    return [replace(row, corrected=by_row.get(id(row))) for row in rows]


def _row(
    section: str, title: str, measure: Measure, after: Sequence[Scores], before: Sequence[Scores] | None, seed: int
) -> Row:
    share = measure.unit == "share"
    new, per = _column(after, measure.name), _column(after, measure.per) if measure.per else None
    sizes = np.ones(len(new)) if per is None else per
    row = Row(
        section=section,
        title=title,
        measure=measure,
        num_items=len(new),
        after=ratio_estimate(new, sizes, seed=seed, share=share),
        luck=float(_column(after, measure.luck).mean()) if measure.luck and after else None,
    )
    if before is None:
        return row
    old = _column(before, measure.name)
    return replace(
        row,
        before=ratio_estimate(old, sizes, seed=seed, share=share),
        change=paired(old, new, per, seed=seed, share=share),
    )


def _column(scores: Sequence[Scores], name: str) -> Floats:
    return np.array([score[name] for score in scores], dtype=np.float64)
