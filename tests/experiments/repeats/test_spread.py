"""Variances over seeds and of single sources against numbers by hand, and intervals that cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, f

from palate.experiments.repeats.spread import (
    deviation,
    deviation_estimate,
    part_of_variance,
    shares,
    sum_beside_whole,
    surely_largest,
    told_apart_from,
    within,
)
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


def test_shares_by_hand() -> None:
    assert [each.value for each in shares([1.0, 3.0], [4, 4])] == [0.25, 0.75]
    few, many = (shares([1.0, 3.0], [n, n])[1] for n in (3, 30))
    assert few.low is not None
    assert few.high is not None
    assert many.low is not None
    assert many.high is not None
    assert few.low < many.low < 0.75 < many.high < few.high
    assert shares([0.0, 2.0], [4, 4]) == [Estimate(0.0), Estimate(1.0)], "what does nothing has no interval"
    assert shares([0.0, 0.0], [4, 4]) == [Estimate(None)] * 2


@pytest.mark.parametrize("seeds", [3, 8])
def test_of_two_sources_the_larger_one_is_known_where_an_f_test_says_so(seeds: int) -> None:
    ratio = f.ppf(0.975, seeds, seeds)
    assert told_apart_from(seeds) == pytest.approx(ratio)
    assert surely_largest([1.0, 1.1 * ratio], [seeds, seeds]) == 1
    assert surely_largest([1.1 * ratio, 1.0], [seeds, seeds]) == 0
    assert surely_largest([1.0, 0.9 * ratio], [seeds, seeds]) is None
    assert surely_largest([1.0], [seeds]) is None, "there is no other"
    assert surely_largest([0.0, 0.0], [seeds, seeds]) is None
    low, high = f.ppf([0.025, 0.975], seeds, seeds)
    share = shares([1.0, 2.0], [seeds, seeds])[1]
    assert [share.low, share.high] == pytest.approx([2 * low / (1 + 2 * low), 2 * high / (1 + 2 * high)], abs=0.02)


def test_the_sum_of_parts_beside_the_whole() -> None:
    alone = sum_beside_whole([6.0], [5], 2.0, 4)
    assert alone.value == 3.0
    assert [alone.low, alone.high] == pytest.approx([3 * f.ppf(0.025, 4, 5), 3 * f.ppf(0.975, 4, 5)], rel=0.1)
    assert sum_beside_whole([6.0], [5], 0.0, 4) == Estimate(None)


def test_intervals_of_shares_cover_and_the_largest_is_the_largest() -> None:
    """Three sources that add up; 200 experiments of five seeds."""
    sizes, count = np.array([0.5, 2.0, 1.0]), 200
    draws = np.random.default_rng(1).normal(size=(count, 2, 5, 3)) * sizes
    truth = sizes**2 / (sizes**2).sum()
    covered, sums, said = np.zeros(3), 0, []
    for base, anew in draws:
        values = base.sum(1)
        parts = [part_of_variance(values, values - base[:, k] + anew[:, k]) for k in range(3)]
        found = shares(parts, [5] * 3)
        covered += [each.low <= true <= each.high for each, true in zip(found, truth, strict=True)]
        whole = sum_beside_whole(parts, [5] * 3, float(values.var(ddof=1)), 4)
        sums += whole.low <= 1 <= whole.high  # type: ignore[operator]
        said.append(surely_largest(parts, [5] * 3))
    assert covered / count == pytest.approx([0.95] * 3, abs=0.04)
    assert sums / count > 0.93
    assert set(said) == {None, 1}
    assert 0.1 < said.count(1) / count < 0.5
