"""What to ask next: doubts by hand, and the order of items against the posterior computed outright."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.objectives.acquisition import disagreement, entropy, one_by_one, uncertainty, uncertainty_one_by_one
from palate.randomness import normals

SCORES = st.lists(st.floats(-8, 8).map(lambda value: round(value, 3)), min_size=2, max_size=5)
SURE = [50.0, -50.0]


def test_two_equal_responses_are_worth_one_bit() -> None:
    assert uncertainty([[0.3, 0.3]]) == pytest.approx(1.0)


def test_the_entropy_of_three_to_one_is_known() -> None:
    # sigmoid(log 3) = 3/4, whose entropy is 2 - 3/4 log2(3)
    assert uncertainty([[math.log(3), 0.0]]) == pytest.approx(2 - 0.75 * math.log2(3))


def test_pairs_are_averaged() -> None:
    one = 2 - 0.75 * math.log2(3)
    assert uncertainty([[0.0, 0.0, math.log(3)]]) == pytest.approx((1 + one + one) / 3)


def test_several_members_count_by_how_they_contradict_each_other() -> None:
    unsure = [0.0, 0.0]
    assert uncertainty([SURE, SURE[::-1]]) == pytest.approx(1.0)
    assert uncertainty([SURE, SURE]) == pytest.approx(0.0)
    assert uncertainty([unsure, unsure]) == pytest.approx(0.0)  # alike, not unknown
    # probabilities 3/4 and 1/4: variance 1/16, times four
    assert uncertainty([[math.log(3), 0.0], [0.0, math.log(3)]]) == pytest.approx(0.25)


def test_several_members_are_told_from_several_responses() -> None:
    assert uncertainty(np.array([[0.0, 5.0], [0.0, -5.0]])) > uncertainty(np.array([[0.0, 5.0], [0.0, 5.0]]))


def test_one_response_asks_nothing() -> None:
    assert uncertainty([[1.0]]) == entropy([[1.0]]) == disagreement([[1.0], [2.0]]) == 0.0
    assert uncertainty_one_by_one([[[1.0], [2.0]], [[0.0, 3.0], [3.0, 0.0]]])[0] == 0.0


@given(SCORES, st.floats(-5, 5))
def test_neither_order_nor_origin_of_the_scores_matters(scores: list[float], shift: float) -> None:
    value = uncertainty([scores])
    assert 0 <= value <= 1 + 1e-12
    assert uncertainty([scores[::-1]]) == pytest.approx(value)
    assert uncertainty([[score + shift for score in scores]]) == pytest.approx(value)


@given(st.lists(SCORES.map(lambda scores: (scores * 3)[:3]), min_size=2, max_size=4))
def test_variance_is_that_of_a_loop_over_pairs(scores: list[list[float]]) -> None:
    expected = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        claims = [1 / (1 + math.exp(row[j] - row[i])) for row in scores]
        mean = sum(claims) / len(claims)
        expected.append(4 * sum((claim - mean) ** 2 for claim in claims) / len(claims))
    assert uncertainty(scores) == pytest.approx(sum(expected) / 3, abs=1e-12)


def test_what_asks_the_same_is_asked_once() -> None:
    """Items 0 and 1 are one question, item 2 another of which members contradict each other a little less."""
    same = [[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]]
    other = [[3.5, 0.0], [0.0, 3.5], [3.5, 0.0], [0.0, 3.5]]
    alone = [uncertainty(each) for each in (same, same, other)]
    assert alone[0] == alone[1] > alone[2]
    first, again, varied = uncertainty_one_by_one([same, same, other])
    assert first == pytest.approx(alone[0])  # the most uncertain keeps what it has
    assert varied == pytest.approx(alone[2])  # nothing was said about it
    assert again == pytest.approx(alone[0] / (1 + alone[0]))  # variance v after one look under noise 1: v / (1 + v)
    assert again < varied


def test_of_one_model_every_item_keeps_its_entropy() -> None:
    items: list[Any] = [[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 0.0, 2.0]]]
    assert uncertainty_one_by_one(items) == [uncertainty(each) for each in items]
    assert uncertainty_one_by_one([]) == []


@given(st.integers(1, 6), st.integers(1, 3), st.integers(2, 5), st.integers(0, 1000))
def test_each_gain_is_the_posterior_variance_and_none_is_greater(items: int, pairs: int, size: int, seed: int) -> None:
    rows = normals(items * pairs * size, seed, "rows").reshape(-1, size)
    item = np.repeat(np.arange(items), pairs) + 7  # numbers are names
    known = np.eye(size) * 2 + np.outer(rows[0], rows[0])
    chosen = one_by_one(rows, item, known=known)
    assert sorted(chosen) == sorted(set(item.tolist()))
    information = known.copy()
    for place, (pick, gain) in enumerate(chosen.items()):
        covariance = np.linalg.inv(information)
        waiting = list(chosen)[place:]
        variance = {each: float(np.einsum("rd,de,re->", *_of(rows, item, each, covariance))) for each in waiting}
        assert gain == pytest.approx(variance[pick], rel=1e-6, abs=1e-9)
        assert gain >= max(variance.values()) - 1e-9
        information += rows[item == pick].T @ rows[item == pick]
    gains = list(chosen.values())
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(gains))
    assert one_by_one(rows, item, known=known, count=1) == dict(list(chosen.items())[:1])


def _of(rows: Any, item: Any, each: int, covariance: Any) -> tuple[Any, Any, Any]:
    return rows[item == each], covariance, rows[item == each]
