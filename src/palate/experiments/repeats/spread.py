"""How far a figure varies from seed to seed, and how much of that one source of randomness does. Numbers in and out.

Every run i is done again with one source f drawn anew and all others as they were; then

    V_f = mean over i of (y_i - y_if)^2 / 2

is without bias the part of the variance that f has, alone and together with others (Jansen 1999, "Analysis of variance
designs for model output", equation 5; a total effect of Sobol's). Where sources do not work together the parts add up
to the whole; where they do, what they do together counts in each of them, and the sum is larger.

Intervals of variances are those of normal numbers, by chi-square: of five seeds they reach from 0.4 to 6 times the
estimate, which is what five seeds are worth. Where sources do not work together, their V come from different changes
and are independent; so what their variances may be is drawn for each alone, as often as there are estimates over
chi-squares, and shares of the sum and the question which is the largest are answered by all draws (Fisher's fiducial
argument: of two sources it is the F test).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtri, gammaincinv

from palate.intervals import Estimate, Floats, ratio_estimate
from palate.randomness import uniforms

DRAWS = 4000
"""Of what variances may be; the ends of intervals of shares are good to a hundredth."""


def deviation_estimate(variance: float, freedom: int) -> Estimate:
    """The root of a variance with its 95% interval; zero has none.

    Args:
        freedom: independent squares that the variance is a mean of.
    """
    if variance == 0:
        return Estimate(0.0)
    ends = [variance * freedom / (2 * gammaincinv(freedom / 2, share)) for share in (0.975, 0.025)]
    return Estimate(float(np.sqrt(variance)), float(np.sqrt(ends[0])), float(np.sqrt(ends[1])))


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean with its interval by seed; of few seeds Student's."""
    return ratio_estimate(values, np.ones(len(values)), seed=0)


def deviation(values: ArrayLike) -> Estimate:
    """The standard deviation of values [N] over seeds, with its interval; undefined of fewer than two."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        return Estimate(None)
    return deviation_estimate(float(found.var(ddof=1)), len(found) - 1)


def part_of_variance(values: ArrayLike, anew: ArrayLike) -> float:
    """V of one source: of figures [N], and of the same runs with that source drawn anew [N]."""
    change = np.asarray(values, dtype=np.float64) - np.asarray(anew, dtype=np.float64)
    return float((change**2).mean() / 2)


def shares(variances: ArrayLike, freedoms: Sequence[int]) -> list[Estimate]:
    """Each source's share of the sum of all variances [S], with its 95% interval; undefined if all are zero.

    Args:
        freedoms: [S] the pairs of runs that each is a mean of.
    """
    found = np.asarray(variances, dtype=np.float64)
    if not found.sum() > 0:
        return [Estimate(None) for _ in freedoms]
    drawn = _drawn(found, freedoms)
    low, high = np.quantile(drawn / drawn.sum(0), [0.025, 0.975], axis=1)
    each = zip(found / found.sum(), low, high, strict=True)
    return [Estimate(float(share), float(a), float(b)) if a < b else Estimate(float(share)) for share, a, b in each]


def surely_largest(variances: ArrayLike, freedoms: Sequence[int]) -> int | None:
    """The source whose variance is larger than every other's, in 97.5% of what they may be; None if that is not known.

    Args: as of ``shares``.
    """
    found = np.asarray(variances, dtype=np.float64)
    if len(found) < 2 or not found.sum() > 0:
        return None
    drawn = _drawn(found, freedoms)
    first = int(found.argmax())
    return first if (drawn.argmax(0) == first).mean() >= 0.975 else None


def sum_beside_whole(variances: ArrayLike, freedoms: Sequence[int], whole: float, freedom: int) -> Estimate:
    """The sum of all sources' variances [S] over the variance of the whole; 1 where sources do not work together.

    Args:
        freedoms: as of ``shares``.
        freedom: of the whole.
    """
    found = np.asarray(variances, dtype=np.float64)
    if not whole > 0 or not found.sum() > 0:
        return Estimate(None)
    drawn = _drawn(np.append(found, whole), [*freedoms, freedom])
    low, high = np.quantile(drawn[:-1].sum(0) / drawn[-1], [0.025, 0.975])
    return Estimate(float(found.sum() / whole), float(low), float(high))


def told_apart_from(seeds: int) -> float:
    """How many times as large as another a source's variance has to be found, to be known for larger: F's 0.975."""
    return float(fdtri(seeds, seeds, 0.975))


def _drawn(variances: Floats, freedoms: Sequence[int]) -> Floats:
    """[S, DRAWS] what they may be."""
    chi_squares = [
        2 * gammaincinv(freedom / 2, uniforms(DRAWS, 0, "shares", place)) for place, freedom in enumerate(freedoms)
    ]
    return np.asarray(variances[:, None] * np.array(freedoms)[:, None] / np.stack(chi_squares))


def within(estimates: Sequence[Estimate]) -> float | None:
    """The standard error that the intervals within runs stand for, mean over those that have one."""
    widths = [each.high - each.low for each in estimates if each.low is not None and each.high is not None]
    return float(np.mean(widths)) / (2 * 1.959963984540054) if widths else None
