"""What becomes of questions: every measure by hand, what must hold of any answers, and planted models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import DataError
from palate.evals.abstaining import MEASURES, Answered, abstention, abstention_beside, abstention_changes
from palate.intervals import Estimate


def answered(right: list[float], unsure: list[float], answerable: list[int]) -> Answered:
    return Answered(right=np.array(right), unsure=np.array(unsure), answerable=np.array(answerable, dtype=bool))


def values(estimates: dict[str, Estimate]) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in estimates.items()}


BEFORE = answered([1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0])
AFTER = answered([1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0])


def test_every_measure_by_hand() -> None:
    """After: 4 of 6 unsure, 2 of them rightly so; 1 of 4 right, and 1 of the 2 that were not withheld."""
    assert values(abstention(AFTER, seed=0)) == pytest.approx(
        {
            "f1": 4 / 6,
            "precision": 2 / 4,
            "recall": 1.0,
            "confident_wrong": 1 / 6,
            "right": 1 / 4,
            "unsure_answerable": 2 / 4,
            "right_when_answering": 1 / 2,
            "f1_of_always": 4 / 8,
        }
    )
    assert values(abstention_beside(BEFORE, AFTER, seed=0)) == {"kept": 0.5, "withheld": 0.5}
    changes = abstention_changes(BEFORE, AFTER, seed=0)
    assert changes.keys() == MEASURES.keys()
    assert changes["confident_wrong"].value == pytest.approx(1 / 6 - 3 / 6)
    assert changes["f1"].value == pytest.approx(4 / 6 - 2 / 3)
    assert changes["recall"].value == pytest.approx(0.5)


def test_shares_of_several_responses_count_as_such() -> None:
    found = answered([0.5, 0.0], [0.25, 0.75], [1, 0])
    assert values(abstention(found, seed=0)) == pytest.approx(
        {
            "f1": 2 * 0.75 / (1.0 + 1.0),
            "precision": 0.75,
            "recall": 0.75,
            "confident_wrong": 0.25,
            "right": 0.5,
            "unsure_answerable": 0.25,
            "right_when_answering": 0.5 / 0.75,
            "f1_of_always": 2 / 3,
        }
    )


def test_what_is_a_share_of_nothing_is_undefined() -> None:
    found = abstention(answered([0.0, 1.0], [0.0, 0.0], [1, 1]), seed=0)
    assert [found[name].value for name in ("precision", "recall", "f1")] == [None, None, None]
    knew_nothing = answered([0.0, 0.0], [0.0, 0.0], [1, 1])
    assert abstention_beside(knew_nothing, knew_nothing, seed=0)["kept"].value is None


def test_one_who_says_so_always_has_the_f1_that_is_shown_beside() -> None:
    always = abstention(answered([0] * 40, [1] * 40, [1] * 30 + [0] * 10), seed=0)
    assert always["f1"].value == always["f1_of_always"].value == pytest.approx(20 / 50)
    assert (always["recall"].value, always["right"].value, always["right_when_answering"].value) == (1.0, 0.0, None)


def planted(seed: int, *, num: int, when_known: float, when_not: float, nobody: float) -> tuple[Answered, Answered]:
    """A model that knows 40% of what can be known, and what it says so of after training, by what it knows."""
    draws = np.random.default_rng(seed).random((2, num))
    answerable = np.arange(num) % 3 > 0
    knew = answerable & (draws[0] < 0.4)
    chance = np.where(knew, when_known, np.where(answerable, when_not, nobody))
    unsure = draws[1] < chance
    before = Answered(right=1.0 * knew, unsure=np.zeros(num), answerable=answerable)
    return before, Answered(right=1.0 * (knew & ~unsure), unsure=1.0 * unsure, answerable=answerable)


def test_a_model_that_says_so_where_it_does_not_know_is_told_from_one_that_says_so_at_random() -> None:
    wise = planted(1, num=600, when_known=0.05, when_not=0.7, nobody=0.9)
    random = planted(2, num=600, when_known=0.5, when_not=0.5, nobody=0.5)
    for before, after, kept, gains in ((*wise, 0.95, True), (*random, 0.5, False)):
        beside, changes = abstention_beside(before, after, seed=3), abstention_changes(before, after, seed=3)
        low, high = beside["kept"].low, beside["kept"].high
        assert low is not None
        assert high is not None
        assert low < kept < high
        gained = changes["right_when_answering"]
        assert gained.low is not None
        assert gained.high is not None
        assert (gained.low > 0) is gains
        assert gains or gained.high > 0
        fewer = changes["confident_wrong"].high
        assert fewer is not None
        assert fewer < 0


@given(st.lists(st.tuples(st.sampled_from(["right", "unsure", "wrong"]), st.booleans()), min_size=2, max_size=12))
def test_of_any_answers(rows: list[tuple[str, bool]]) -> None:
    right = [1.0 * (kind == "right" and answerable) for kind, answerable in rows]
    found = answered(right, [1.0 * (kind == "unsure") for kind, _ in rows], [answerable for _, answerable in rows])
    measured = abstention(found, seed=0)
    for estimate in measured.values():
        assert estimate.value is None or 0 <= estimate.value <= 1
    precision, recall, f1 = (measured[name].value for name in ("precision", "recall", "f1"))
    if precision and recall:
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    none = abstention_changes(found, found, seed=0)
    assert all(change.value in (None, 0.0) for change in none.values())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match="nothing is right about a question without an answer"):
        answered([1.0], [0.0], [0])
    with pytest.raises(DataError, match="for each question"):
        answered([1.0, 0.0], [0.0], [1])
    with pytest.raises(DataError, match="the same questions"):
        abstention_changes(BEFORE, answered([0] * 6, [0] * 6, [0] * 6), seed=0)
