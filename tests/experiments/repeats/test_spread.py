"""Variances over seeds and of single sources against numbers by hand, and intervals that cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from palate.experiments.repeats.spread import deviation, deviation_estimate, part_of_variance, within
from palate.intervals import Estimate


def test_numbers_by_hand() -> None:
    assert deviation([1.0, 3.0, 5.0]).value == 2.0
    assert deviation([1.0]).value is None
    assert part_of_variance([1.0, 2.0], [3.0, 2.0]) == 1.0  # (4 + 0) / 2 / 2
    estimates = [Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.3, 0.7), Estimate(0.5)]
    assert within(estimates) == pytest.approx(0.3 / (2 * 1.96), rel=1e-4)
    assert within([Estimate(0.5)]) is None


def test_the_interval_of_a_deviation_is_chi_squares() -> None:
    found = deviation_estimate(4.0, 5)
    assert found.value == 2.0
    assert [found.low, found.high] == pytest.approx([np.sqrt(20 / chi2.ppf(share, 5)) for share in (0.975, 0.025)])
    assert deviation_estimate(0.0, 5) == Estimate(0.0)


def test_sources_are_told_apart_and_their_intervals_cover() -> None:
    """A sum of two sources, 0.5 and 2 standard deviations large; of 400 experiments 95% cover each of them."""
    draws = np.random.default_rng(0).normal(size=(400, 2, 2, 6)) * np.array([0.5, 2.0])[:, None, None]
    covered = np.zeros(2)
    parts = []
    for (a, other_a), (b, other_b) in draws:
        found = part_of_variance(a + b, other_a + b), part_of_variance(a + b, a + other_b)
        parts.append(found)
        for place, (part, truth) in enumerate(zip(found, (0.5, 2.0), strict=True)):
            estimate = deviation_estimate(part, 6)
            assert estimate.low is not None
            assert estimate.high is not None
            covered[place] += estimate.low <= truth <= estimate.high
    assert np.mean(parts, axis=0) == pytest.approx([0.25, 4.0], rel=0.1)
    assert covered / 400 == pytest.approx([0.95, 0.95], abs=0.025)
