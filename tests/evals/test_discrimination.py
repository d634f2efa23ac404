"""The area under the curve against counting, and its interval against what prompts are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.evals.discrimination import area_under_curve, by_quarter


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_it_is_the_share_of_pairs_in_order(cases: list[tuple[int, bool]]) -> None:
    scores, labels = [score for score, _ in cases], [label for _, label in cases]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, yes in cases for b, also in cases if yes and not also]
    found = area_under_curve(scores, labels, [str(place) for place in range(len(cases))], seed=0)
    assert found.value == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_the_interval_stays_where_areas_are() -> None:
    found = area_under_curve([0.1, 0.9, 0.2, 0.8], [0, 1, 1, 0], list("abcd"), seed=0)
    assert found.low == 0.0
    assert found.high == 1.0


def test_copies_of_a_prompt_are_no_further_evidence() -> None:
    scores, labels = [0.1, 0.7, 0.4, 0.9, 0.2, 0.8], [0, 1, 1, 0, 0, 1]
    prompts = list("abcdef")
    once = area_under_curve(scores, labels, prompts, seed=0)
    often = area_under_curve(scores * 9, labels * 9, prompts * 9, seed=0)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert once.low is not None
    assert once.value is not None
    assert once.low < once.value


def test_quarters_go_up_and_hold_every_case_once() -> None:
    scores = [5, 1, 4, 2, 3, 0, 7, 6]
    found = by_quarter(scores, [score > 3 for score in scores], [str(score) for score in scores], seed=0)
    assert [(low, high, estimate.value) for low, high, estimate in found] == [
        (0, 1, 0.0), (2, 3, 0.0), (4, 5, 1.0), (6, 7, 1.0)
    ]  # fmt: skip
    assert by_quarter([], [], [], seed=0) == []
    assert len(by_quarter([1, 2], [1, 0], ["a", "b"], seed=0)) == 2
