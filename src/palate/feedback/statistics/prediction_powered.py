"""A mean of what people say, from few of their verdicts and many of a judge's: prediction-powered inference.

The judge says f of every item, people say y of some, which must be drawn by lot from all. Then

    theta = L * mean of f over the items without people + mean of (y - L * f) over those with people

is without bias whatever the judge's errors are: what it says on the many is corrected by how wrong it is on the few
(Angelopoulos et al. 2023, arXiv 2301.09633). L is chosen to make the variance smallest ("power tuning", PPI++,
Angelopoulos et al. 2023, arXiv 2311.01453, example 6.1): 1 of a judge that is as good as people, 0 of one that knows
nothing, where people's own mean is what is left.

Items of one prompt resemble each other, so variances are by prompt, and a prompt may have items of both kinds. With one
item to a prompt they are the paper's. The interval is Student's, by the prompts that people have judged.

Left out: weights for items that were not drawn by lot, quantiles, regressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from palate.intervals import Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """A mean of people's verdicts three ways, each with its 95% interval.

    Attributes:
        judge: the judge's own mean over all items; its interval knows nothing of its errors.
        people: that of people's verdicts alone.
        corrected: both together.
        trust: L, how much the judge counts.
        judged_by_people, judged: items.
        worth: as many times as many verdicts of people alone would have given an interval as narrow; None if undefined.
    """

    judge: Estimate
    people: Estimate
    corrected: Estimate
    trust: float
    judged_by_people: int
    judged: int
    worth: float | None


def corrected_mean(
    judge: ArrayLike, people: ArrayLike, prompts: Sequence[str], *, trust: float | None = None
) -> Corrected:
    """The mean of what people would say of all items.

    Args:
        judge: [N] verdicts, between 0 and 1.
        people: [N] the same of people, NaN where they said nothing.
        prompts: [N] of each item.
        trust: L; None: the best.
    """
    f, y = np.asarray(judge, dtype=np.float64), np.asarray(people, dtype=np.float64)
    numbers = np.unique(np.asarray(prompts, dtype=np.str_), return_inverse=True)[1]
    said = ~np.isnan(y)
    own = _by_prompt(f, np.ones(len(f), dtype=bool), numbers)
    told = _by_prompt(y, said, numbers)
    of_judge = _by_prompt(f, said, numbers)
    rest = _by_prompt(f, ~said, numbers)
    chosen = 0.0
    if (~said).any() and said.any():
        gap = rest - of_judge  # [P] what a unit of trust adds to the error of each prompt
        power = float((gap**2).sum())
        best = -float((gap * told).sum()) / power if power > 1e-18 else 0.0
        chosen = best if trust is None else trust
    errors = told + chosen * (rest - of_judge)
    value = None
    if said.any():
        shift = float(f[~said].mean() - f[said].mean()) if (~said).any() else 0.0
        value = float(y[said].mean()) + chosen * shift
    count, every = len(np.unique(numbers[said])), len(np.unique(numbers))
    alone, both = _variance(told, count), _variance(errors, every if chosen else count)
    return Corrected(
        judge=_interval(float(f.mean()) if len(f) else None, _variance(own, every), every),
        people=_interval(float(y[said].mean()) if said.any() else None, alone, count),
        corrected=_interval(value, both, count),
        trust=chosen,
        judged_by_people=int(said.sum()),
        judged=len(f),
        worth=None if both <= 0 else alone / both,
    )


def _by_prompt(values: Floats, chosen: NDArray[np.bool_], prompts: NDArray[np.int64]) -> Floats:
    """[P] what each prompt adds to the error of the mean of the chosen values; they add up to 0."""
    if not chosen.any():
        return np.zeros(prompts.max() + 1 if len(prompts) else 0)
    centred = np.where(chosen, values - values[chosen].mean(), 0.0)
    found: Floats = np.bincount(prompts, weights=centred) / chosen.sum()
    return found


def _variance(errors: Floats, count: int) -> float:
    """Of a mean, from what each of so many prompts adds to its error."""
    return float((errors**2).sum()) * count / (count - 1) if count > 1 else 0.0


def _interval(value: float | None, variance: float, prompts: int) -> Estimate:
    """Student's; none of fewer than two prompts, or where nothing varies."""
    if value is None or prompts < 2 or variance <= 0:
        return Estimate(value)
    half = float(stdtrit(prompts - 1, 0.975)) * variance**0.5
    return Estimate(value, value - half, value + half)
