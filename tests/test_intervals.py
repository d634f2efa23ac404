"""Intervals: literals, coverage, and what is undefined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from palate.intervals import Estimate, bootstrap, ratio_estimate, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (7, 10), (10, 10), (50, 200)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    ours = wilson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert ours.value == successes / n


def test_undefined_cases_are_none() -> None:
    assert wilson(0, 0) == Estimate(None)
    assert ratio_estimate([], [], seed=0) == Estimate(None)
    assert ratio_estimate([0.0, 0.0], [0.0, 0.0], seed=0) == Estimate(None)
    assert ratio_estimate([1.0], [2.0], seed=0) == Estimate(0.5)  # one prompt: no interval
    assert bootstrap(lambda counts: None, 5, seed=0) == Estimate(None)
    assert str(Estimate(None)) == "undefined"
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"


def test_equal_prompts_have_an_interval_of_no_width() -> None:
    assert ratio_estimate([3.0] * 8, [4.0] * 8, seed=0, resamples=50) == Estimate(0.75, 0.75, 0.75)


def test_both_ways_to_bootstrap_draw_the_same() -> None:
    above, below = np.array([1.0, 0.0, 3.0, 2.0]), np.array([2.0, 1.0, 3.0, 4.0])
    slow = bootstrap(lambda counts: float(counts @ above / (counts @ below)), 4, seed=3, resamples=300)
    fast = ratio_estimate(above, below, seed=3, resamples=300)
    assert (slow.value, slow.low, slow.high) == pytest.approx((fast.value, fast.low, fast.high))
    assert slow != bootstrap(lambda counts: float(counts @ above / (counts @ below)), 4, seed=4, resamples=300)


def test_interval_has_the_width_theory_gives_and_covers() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        sample = rng.standard_normal(60)
        estimate = ratio_estimate(sample, np.ones(60), seed=0, resamples=400)
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 0 <= estimate.high
        assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * sample.std() / 60**0.5, rel=0.25)
    assert covered >= 88
