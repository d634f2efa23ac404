"""Intervals: literals, coverage, and what is undefined."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binomtest

from palate.intervals import FEW, Estimate, bootstrap, ratio_estimate, wilson


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
    assert ratio_estimate([1.0], [2.0], seed=0, share=True) == Estimate(0.5)  # one prompt: no interval
    assert ratio_estimate([1.0, 0.0], [2.0, 0.0], seed=0) == Estimate(0.5)  # the other says nothing
    assert bootstrap(lambda counts: None, 5, seed=0) == Estimate(None)
    assert str(Estimate(None)) == "undefined"
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"


def test_few_prompts_that_are_alike_have_no_interval_and_many_one_of_no_width() -> None:
    assert ratio_estimate([3.0] * 8, [4.0] * 8, seed=0) == Estimate(0.75)
    assert ratio_estimate([3.0] * FEW, [4.0] * FEW, seed=0, resamples=50) == Estimate(0.75, 0.75, 0.75)


def test_a_statistic_that_hangs_on_one_of_few_prompts_has_no_interval() -> None:
    assert bootstrap(lambda counts: 0.5 if counts[0] else None, 5, seed=0) == Estimate(0.5)


def test_the_interval_of_few_prompts_by_hand() -> None:
    """Student's t on the standard error of the mean, and Student's own quantile."""
    estimate = ratio_estimate([1.0, 2.0, 6.0], [1.0, 1.0, 1.0], seed=0)
    half = 4.302652729911275 * (7 / 3) ** 0.5  # the variance is 7
    assert (estimate.low, estimate.high) == pytest.approx((3 - half, 3 + half))
    bounded = bootstrap(lambda counts: float(counts @ [1.0, 2.0, 6.0] / counts.sum()), 3, seed=0, most=4.0)
    assert (bounded.low, bounded.high) == pytest.approx((3 - half, 4.0))
    bounded = ratio_estimate([1.0, 2.0, 6.0], [1.0, 1.0, 1.0], seed=0, least=0.0)
    assert (bounded.low, bounded.high) == pytest.approx((0.0, 3 + half))


@pytest.mark.parametrize(("won", "n"), [(5, 5), (0, 3), (3, 5), (40, 40), (199, 200), (1, 40)])
def test_a_share_of_few_or_of_nearly_all_is_exact(won: int, n: int) -> None:
    exact = binomtest(won, n).proportion_ci(method="exact")
    estimate = ratio_estimate([1.0] * won + [0.0] * (n - won), [1.0] * n, seed=0, share=True)
    slow = bootstrap(lambda w: float(w[:won].sum() / w.sum()), n, seed=0, share=True, resamples=500)
    rel = 0.0 if n < FEW or won in (0, n) else 0.3  # how many trials it is worth is then bootstrapped too
    for found in (estimate, slow):
        assert found.value == won / n
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-6, rel=rel)


def test_what_many_responses_to_a_prompt_add_narrows_a_share() -> None:
    steady, shaky = [8.0, 9.0, 10.0, 9.0, 8.0, 10.0], [0.0, 16.0, 16.0, 0.0, 16.0, 6.0]
    widths = []
    for won in (steady, shaky):
        estimate = ratio_estimate(won, [16.0] * 6, seed=0, share=True)
        assert estimate.low is not None
        assert estimate.high is not None
        widths.append(estimate.high - estimate.low)
    assert widths[0] < 0.5 * widths[1]


def test_one_large_prompt_among_small_ones_is_hardly_more_than_one_trial() -> None:
    estimate = ratio_estimate([100.0, 1.0, 1.0, 1.0], [100.0, 1.0, 1.0, 1.0], seed=0, share=True)
    assert estimate.high == 1.0
    assert estimate.low == pytest.approx(0.025 ** (1 / (103**2 / 10003)))


def test_both_ways_to_bootstrap_draw_the_same() -> None:
    above, below = np.tile([1.0, 0.0, 3.0, 2.0], 10), np.tile([2.0, 1.0, 3.0, 4.0], 10)

    def statistic(counts: np.ndarray) -> float:
        return float(counts @ above / (counts @ below))

    for n in (40, 4):
        above, below = above[-n:], below[-n:]
        slow = bootstrap(statistic, n, seed=3, resamples=300)
        fast = ratio_estimate(above, below, seed=3, resamples=300)
        assert (slow.value, slow.low, slow.high) == pytest.approx((fast.value, fast.low, fast.high))
        assert (n < FEW) == (slow == bootstrap(statistic, n, seed=4, resamples=300))


class Case(NamedTuple):
    """A kind of data: how prompts are drawn, the truth, whether it is a share, the least coverage."""

    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    truth: float
    share: bool
    least: float


def responses(of: int, a: float, b: float) -> Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]:
    """Several responses to a prompt, which win as often as the prompt has it."""
    return lambda rng, n: (rng.binomial(of, rng.beta(a, b, n)).astype(float), np.full(n, float(of)))


CASES = {
    "normal": Case(lambda rng, n: (rng.normal(size=n), np.ones(n)), 0.0, False, 0.92),
    "skewed": Case(lambda rng, n: (rng.exponential(size=n), np.ones(n)), 1.0, False, 0.85),
    "coin": Case(lambda rng, n: ((rng.random(n) < 0.5).astype(float), np.ones(n)), 0.5, True, 0.92),
    "nearly all": Case(lambda rng, n: ((rng.random(n) < 0.95).astype(float), np.ones(n)), 0.95, True, 0.92),
    "prompts decide": Case(responses(4, 0.5, 0.5), 0.5, True, 0.92),
    "responses decide": Case(responses(16, 8.0, 2.0), 0.8, True, 0.92),
    "of several sizes": Case(
        lambda rng, n: (
            rng.binomial(sizes := rng.integers(1, 6, n), rng.beta(3, 2, n)).astype(float),
            sizes.astype(float),
        ),
        0.6,
        True,
        0.92,
    ),
}


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_interval_covers_what_it_says(case: Case, n: int) -> None:
    """95%, less what 400 trials may be off by chance; the t interval of a very skewed mean covers 88 to 90%."""
    rng, covered, trials = np.random.default_rng(n), 0, 400
    for _ in range(trials):
        estimate = ratio_estimate(*case.draw(rng, n), seed=0, resamples=200, share=case.share)
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= case.truth <= estimate.high
    least = case.least - (0.02 if n >= FEW else 0.0)  # the bootstrap's own
    assert covered / trials >= least


def test_many_prompts_have_the_width_that_theory_gives() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sample = rng.standard_normal(60)
        estimate = ratio_estimate(sample, np.ones(60), seed=0, resamples=400)
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * sample.std() / 60**0.5, rel=0.25)
