"""Agreement coefficients against tables worked out by hand or in the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from palate.feedback.statistics.coefficients import (
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    kendall_tau_b,
    krippendorff_alpha,
    mean_cohen_kappa,
)

NAN = math.nan

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


def test_cohen_kappa_by_hand() -> None:
    # observed 35/50 = 0.7; expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5; (0.7 - 0.5) / (1 - 0.5)
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)


def test_cohen_kappa_is_undefined_when_both_always_say_the_same() -> None:
    assert cohen_kappa([[10, 0], [0, 0]]) is None
    assert cohen_kappa([[0, 0], [0, 0]]) is None


def test_mean_cohen_kappa_weighs_by_meetings_and_leaves_out_the_undefined() -> None:
    tables = np.array([[[20.0, 5], [10, 15]], [[5, 0], [0, 5]], [[9, 0], [0, 0]]])
    assert mean_cohen_kappa(tables) == pytest.approx((50 * 0.4 + 10 * 1.0) / 60)


def test_fleiss_kappa_by_hand() -> None:
    # three raters, four units: agreement per unit 1, 1, 1/3, 1/3, mean 2/3; shares 7/12 and 5/12, expected 74/144
    counts = [[3, 0], [0, 3], [2, 1], [2, 1]]
    assert fleiss_kappa(counts) == pytest.approx((2 / 3 - 74 / 144) / (1 - 74 / 144))


def test_fleiss_kappa_leaves_out_units_with_one_rater() -> None:
    counts = [[3, 0], [0, 3], [2, 1], [2, 1], [1, 0]]
    assert fleiss_kappa(counts) == pytest.approx(fleiss_kappa(counts[:4]))


def test_gwet_ac1_by_hand() -> None:
    # the same table: shares 7/12 and 5/12, expected 2 * 7/12 * 5/12 = 70/144
    counts = [[3, 0], [0, 3], [2, 1], [2, 1]]
    assert gwet_ac1(counts) == pytest.approx((2 / 3 - 70 / 144) / (1 - 70 / 144))


def test_gwet_ac1_stays_high_where_kappa_collapses() -> None:
    # 98 of 100 units agree, but one category is rare: kappa's paradox
    counts = [[2, 0]] * 98 + [[1, 1]] * 2
    kappa, ac1 = fleiss_kappa(counts), gwet_ac1(counts)
    assert kappa is not None
    assert ac1 is not None
    assert kappa < 0
    assert ac1 > 0.97


def test_everyone_says_the_same() -> None:
    counts = [[3, 0], [3, 0]]
    assert fleiss_kappa(counts) is None  # nothing to tell apart
    assert gwet_ac1(counts) == 1
    assert krippendorff_alpha([[1, 1], [1, 1]], metric="nominal") is None


def test_nothing_to_compare() -> None:
    assert fleiss_kappa([[1, 0], [0, 1]]) is None
    assert gwet_ac1([[1, 0]]) is None
    assert krippendorff_alpha([[1, NAN], [NAN, 2]], metric="interval") is None


def test_krippendorff_published_example() -> None:
    assert krippendorff_alpha(KRIPPENDORFF, metric="nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(KRIPPENDORFF, metric="interval") == pytest.approx(0.849, abs=5e-4)


@given(st.lists(st.lists(st.sampled_from([NAN, 1.0, 2.0, 3.0, 5.0]), min_size=3, max_size=3), min_size=1, max_size=8))
def test_krippendorff_against_its_definition(rows: list[list[float]]) -> None:
    for metric, distance in (("nominal", lambda a, b: float(a != b)), ("interval", lambda a, b: (a - b) ** 2)):
        units = [[v for v in row if not math.isnan(v)] for row in rows]
        units = [unit for unit in units if len(unit) > 1]
        values = [v for unit in units for v in unit]
        n = len(values)
        within = sum(
            distance(a, b) / (len(unit) - 1)
            for unit in units
            for i, a in enumerate(unit)
            for j, b in enumerate(unit)
            if i != j
        )
        between = sum(distance(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j)
        expected = 1 - (n - 1) * within / between if between else None
        assert krippendorff_alpha(rows, metric=metric) == pytest.approx(expected)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_a_weight_is_a_repetition(weights: list[int]) -> None:
    counts = np.array([[3, 0], [1, 2], [2, 1], [0, 2]])
    values = np.array([[1, 2, NAN], [1, 1, 1], [3, 2, 3], [3, 3, NAN]])
    repeated = np.repeat(np.arange(4), weights)
    assert fleiss_kappa(counts, weights) == pytest.approx(fleiss_kappa(counts[repeated]))
    assert gwet_ac1(counts, weights) == pytest.approx(gwet_ac1(counts[repeated]))
    for metric in ("nominal", "interval"):
        once = krippendorff_alpha(values, metric=metric, weights=weights)
        assert once == pytest.approx(krippendorff_alpha(values[repeated], metric=metric))


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=7))
def test_kendall_tau_b_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    ours = kendall_tau_b(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(kendalltau(first, second, variant="b").statistic)


def test_kendall_tau_b_by_hand() -> None:
    assert kendall_tau_b([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert kendall_tau_b([1, 2], [1, 1]) is None
