"""How far a figure varies from seed to seed, and how much of that one source of randomness does. Numbers in and out.

Every run i is done again with one source f drawn anew and all others as they were; then

    V_f = mean over i of (y_i - y_if)^2 / 2

is without bias the part of the variance that f has, alone and together with others (Jansen 1999, "Analysis of variance
designs for model output", equation 5; a total effect of Sobol's). Where sources do not work together the parts add up
to the whole; where they do, what they do together counts in each of them, and the sum is larger.

Intervals of variances are those of normal numbers, by chi-square: of five seeds they reach from 0.4 to 6 times the
estimate, which is what five seeds are worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaincinv

from palate.intervals import Estimate, ratio_estimate


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


def within(estimates: Sequence[Estimate]) -> float | None:
    """The standard error that the intervals within runs stand for, mean over those that have one."""
    widths = [each.high - each.low for each in estimates if each.low is not None and each.high is not None]
    return float(np.mean(widths)) / (2 * 1.959963984540054) if widths else None
