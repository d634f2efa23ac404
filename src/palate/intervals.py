"""Intervals for everything that is reported: by prompt, and Wilson's for a plain share of independent trials.

Responses to one prompt resemble each other, so what counts is whole prompts, never single comparisons.

    thirty prompts or more   the bootstrap: prompts are drawn again, with replacement (Efron 1979; percentiles)
    fewer                    Student's t on the jackknife's standard error (Tukey 1958): two to five prompts drawn again
                             cover 52 to 84% where 95 is said
    a share                  exact where prompts are few or the share is near 0 or 1 (Clopper and Pearson 1934, at an
                             effective number of trials as in Korn and Graubard 1998): five wins of five are no proof

The effective number is what the variance between prompts says, discounted for estimating it from few; it is never less
than the number of prompts, because nothing between 0 and 1 varies more than a coin with the same mean. What cannot be
computed is None, never zero; and of few prompts that are all alike no interval can be had, unless it is a share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

from palate.randomness import uniforms

Floats = NDArray[np.float64]

FEW = 30
"""With fewer prompts than that the bootstrap's percentiles are too narrow."""

_BOTH_SIDES = (
    5  # trials on the rarer side, below which a share's bootstrap is too narrow however many prompts there are
)
_Z = 1.959963984540054
_NOTHING = 1e-9  # what is left of a difference of equal numbers


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval; each is None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """As it stands in a table."""
        if self.value is None:
            return "undefined"
        interval = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{interval}"


def bootstrap(
    statistic: Callable[[Floats], float | None],
    n: int,
    *,
    seed: int,
    resamples: int = 2000,
    share: bool = False,
    least: float = -np.inf,
    most: float = np.inf,
) -> Estimate:
    """A statistic of prompts that count as often as the weights [n] say, and its interval.

    Resamples in which the statistic is undefined are left out. There is no interval with fewer than two prompts, if
    most resamples are undefined, or if the statistic hangs on one of few prompts.

    Args:
        share: it lies between 0 and 1, as the mean over prompts of something that does.
        least, most: the smallest and the largest value it can have.
    """
    value = statistic(np.ones(n)) if n else None
    if value is None or n < 2:
        return Estimate(value)
    if n < FEW:
        without = [statistic(weights) for weights in 1 - np.eye(n)]
        known = np.array([left for left in without if left is not None])
        return _of_few(value, known, n, n, share=share, least=least, most=most)
    counts = (np.bincount(row, minlength=n).astype(np.float64) for rows in _draws(n, resamples, seed) for row in rows)
    drawn = [sample for weights in counts if (sample := statistic(weights)) is not None]
    return _of_many(value, np.array(drawn), n, n, resamples, share=share)


def ratio_estimate(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: int,
    resamples: int = 2000,
    share: bool = False,
    least: float = -np.inf,
    most: float = np.inf,
) -> Estimate:
    """sum(numerators) / sum(denominators) over prompts, [P] each: a mean when the denominators count.

    ``share``, ``least`` and ``most`` are as in ``bootstrap``.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    above, below = above[below > 0], below[below > 0]
    if not len(below):
        return Estimate(None)
    value, n = float(above.sum() / below.sum()), len(below)
    if n < 2:
        return Estimate(value)
    trials = float(below.sum() ** 2 / (below**2).sum())  # as many prompts of one size (Kish 1965)
    if n < FEW:
        without = (above.sum() - above) / (below.sum() - below)
        return _of_few(value, without, n, trials, share=share, least=least, most=most)
    both = np.stack([above, below])
    upper, lower = np.concatenate([both[:, rows].sum(axis=2) for rows in _draws(n, resamples, seed)], axis=1)
    return _of_many(value, upper / lower, n, trials, resamples, share=share)


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """[r, n] prompts drawn with replacement, some resamples at a time; they depend on n and the seed alone."""
    size = max(1, 1_000_000 // n)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        yield (uniforms(rows * n, seed, "bootstrap", start) * n).astype(np.int64).reshape(rows, n)


def _of_few(
    value: float, without: Floats, n: int, trials: float, *, share: bool, least: float, most: float
) -> Estimate:
    """From the values without each of the n prompts."""
    if len(without) < n:
        return Estimate(value)
    variance = (n - 1) * float(without.var())
    if share:
        return _exact(value, variance, n, trials)
    half = float(stdtrit(n - 1, 0.975)) * variance**0.5
    return Estimate(value, max(value - half, least), min(value + half, most)) if half > _NOTHING else Estimate(value)


def _of_many(value: float, drawn: Floats, n: int, trials: float, resamples: int, *, share: bool) -> Estimate:
    """From the values of resamples."""
    if len(drawn) < resamples / 2:
        return Estimate(value)
    if share:
        variance = float(drawn.var())
        if _effective(value, variance, n, trials) * min(value, 1 - value) < _BOTH_SIDES:
            return _exact(value, variance, n, trials)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _exact(value: float, variance: float, n: int, trials: float) -> Estimate:
    """Clopper and Pearson's interval of a share; the number of trials need not be whole."""
    among = _effective(value, variance, n, trials)
    won, lost = min(max(value, 0.0), 1.0) * among, min(max(1 - value, 0.0), 1.0) * among
    low = float(betaincinv(won, lost + 1, 0.025)) if won > _NOTHING else 0.0
    high = float(betaincinv(won + 1, lost, 0.975)) if lost > _NOTHING else 1.0
    return Estimate(value, low, high)


def _effective(share: float, variance: float, n: int, trials: float) -> float:
    """How many independent trials a share of n prompts is worth."""
    if variance <= _NOTHING**2:
        return trials
    return max(trials, share * (1 - share) / variance * (_Z / float(stdtrit(n - 1, 0.975))) ** 2)


def wilson(successes: float, n: float) -> Estimate:
    """A share of n independent trials with Wilson's 95% score interval (Wilson 1927)."""
    if n == 0:
        return Estimate(None)
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * float(np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))
