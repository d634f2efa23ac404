"""Intervals for everything that is reported: the bootstrap by prompt, and Wilson's for a plain share.

Responses to one prompt resemble each other, so what is drawn again, with replacement, is whole prompts, never single
comparisons (Efron 1979; the percentile interval). An interval that cannot be computed is None, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.randomness import uniforms

Floats = NDArray[np.float64]


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


def bootstrap(statistic: Callable[[Floats], float | None], n: int, *, seed: int, resamples: int = 2000) -> Estimate:
    """A statistic of prompts that count as often as the weights [n] say, and its percentile interval.

    Resamples in which the statistic is undefined are left out; with fewer than two prompts, or if most are undefined,
    there is no interval.
    """
    value = statistic(np.ones(n)) if n else None
    if value is None or n < 2:
        return Estimate(value)
    counts = (np.bincount(row, minlength=n).astype(np.float64) for rows in _draws(n, resamples, seed) for row in rows)
    drawn = [sample for weights in counts if (sample := statistic(weights)) is not None]
    return _percentiles(value, np.array(drawn), resamples)


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike, *, seed: int, resamples: int = 2000) -> Estimate:
    """sum(numerators) / sum(denominators) over prompts, [P] each: a mean when the denominators count."""
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not below.sum():
        return Estimate(None)
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Estimate(value)
    both = np.stack([above, below])
    upper, lower = np.concatenate([both[:, rows].sum(axis=2) for rows in _draws(len(above), resamples, seed)], axis=1)
    return _percentiles(value, upper[lower > 0] / lower[lower > 0], resamples)


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """[r, n] prompts drawn with replacement, some resamples at a time; they depend on n and the seed alone."""
    size = max(1, 1_000_000 // n)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        yield (uniforms(rows * n, seed, "bootstrap", start) * n).astype(np.int64).reshape(rows, n)


def _percentiles(value: float, drawn: Floats, resamples: int) -> Estimate:
    if len(drawn) < resamples / 2:
        return Estimate(value)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def wilson(successes: float, n: float) -> Estimate:
    """A share of n independent trials with Wilson's 95% score interval (Wilson 1927)."""
    if n == 0:
        return Estimate(None)
    z = 1.959963984540054
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))
