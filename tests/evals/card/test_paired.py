"""Paired tests against other ways to the same numbers, and how often they are wrong."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from palate.evals.card.paired import holm, mcnemar, paired, sign_flips, tango


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test_of_the_changed(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-12)


def score_by_search(gained: int, lost: int, n: int, difference: float) -> float:
    """Standard errors from a difference, its likeliest share of lost found by search and not by formula."""

    def surprise(share: float) -> float:
        chances = (share + difference, share, 1 - 2 * share - difference)
        counts = (gained, lost, n - gained - lost)
        return -sum(count * np.log(max(chance, 1e-300)) for count, chance in zip(counts, chances, strict=True))

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = float(minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x)
    return float((gained - lost - n * difference) / np.sqrt(n * (2 * share + difference - difference**2)))


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 4, 60), (3, 0, 40), (30, 31, 200), (1, 9, 25)])
def test_the_interval_ends_where_a_score_test_rejects(gained: int, lost: int, n: int) -> None:
    found = tango(gained, lost, n)
    assert found.value == (gained - lost) / n
    assert found.low is not None
    assert found.high is not None
    assert score_by_search(gained, lost, n, found.low) == pytest.approx(1.96, abs=1e-3)
    assert score_by_search(gained, lost, n, found.high) == pytest.approx(-1.96, abs=1e-3)


@given(st.integers(1, 400))
def test_nothing_changed_is_not_certainty(n: int) -> None:
    found = tango(0, 0, n)
    assert found.high == pytest.approx(1.96**2 / (n + 1.96**2), rel=1e-3)
    assert found.low == pytest.approx(-(found.high or 0.0))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws, covered = np.random.default_rng(3), 0
    for _ in range(1000):
        gained, lost, _ = draws.multinomial(80, (0.15, 0.08, 0.77))
        found = tango(int(gained), int(lost), 80)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.07 <= found.high
    assert 930 <= covered <= 970


def test_random_signs_come_near_to_all_of_them() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.15, -0.05, 0.5, 0.1])
    sums = [abs(float(np.dot(signs, differences))) for signs in product((-1, 1), repeat=len(differences))]
    exact = np.mean([total >= abs(differences.sum()) - 1e-12 for total in sums])
    assert sign_flips(differences, seed=0) == pytest.approx(exact, abs=0.01)
    assert sign_flips(np.zeros(9), seed=0) == 1.0
    assert sign_flips(np.ones(30), seed=0) == 1e-4


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_right_and_wrong_and_other_scores_take_their_own_way() -> None:
    before, after = np.array([1, 0, 0, 1, 1.0] * 8), np.array([1, 1, 0, 1, 0.0] * 8)
    found = paired(before, after, seed=0, share=True)
    assert (found.test, found.difference.value, found.p) == ("McNemar", 0.0, 1.0)
    shares = paired(before / 2, after / 2, seed=0, share=True)
    assert shares.test == "signs"
    sizes = np.array([1.0, 3.0] * 20)
    bits = paired(2 * sizes, 2.5 * sizes, sizes, seed=0, share=False)
    assert bits.difference.value == pytest.approx(0.5)
    assert bits.p == 1e-4


def test_where_nothing_changed_one_family_in_twenty_finds_something() -> None:
    draws, found = np.random.default_rng(0), 0
    for _ in range(400):
        probabilities = []
        for _ in range(6):
            gained = int(draws.binomial(40, 0.5))
            probabilities.append(mcnemar(gained, 40 - gained))
        found += min(holm(probabilities)) < 0.05
    assert found <= 0.05 * 400
