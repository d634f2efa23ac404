"""A judge beside people: categories, length and the corrected win rate, against numbers by hand."""

from __future__ import annotations

import pytest

from palate.errors import DataError
from palate.evals.report import Report
from palate.intervals import Estimate
from palate.records import Candidates, Prompt, Ranking, Response
from palate.stages.ai_feedback.calibrated import (
    add_calibrated,
    by_category,
    calibrated,
    check_category,
    numbers_of,
    pairs_of,
)

SHORT, LONG = Response(text="Yes."), Response(text="Yes, by all means.")


def said(number: int, ranks: tuple[int, int], labeler: str, *, turned: bool = False) -> Ranking:
    """About the short answer, which is the first one, and the long one; shown the other way round if turned."""
    prompt = Prompt.from_text(f"{number}?", tags={"topic": "tea" if number < 2 else "mills"})
    both = (LONG, SHORT) if turned else (SHORT, LONG)
    return Ranking(prompt=prompt, responses=both, ranks=ranks[::-1] if turned else ranks, labeler=labeler)


JUDGE = [said(number, (2, 1), "ai:j") for number in range(3)] + [said(3, (1, 1), "ai:j")]
PEOPLE = [
    said(0, (2, 1), "ann"),
    said(0, (2, 1), "bob", turned=True),
    said(1, (1, 2), "ann"),
    said(1, (2, 1), "bob"),
    said(2, (1, 2), "ann", turned=True),
]
PAIRS = pairs_of([Candidates(prompt=each.prompt, responses=each.responses) for each in JUDGE])


def test_agreement_by_category() -> None:
    found = by_category(JUDGE, PEOPLE, "topic", seed=0)
    assert list(found) == ["mills", "tea"]
    assert found["tea"].with_people.value == pytest.approx(3 / 4)
    assert found["tea"].of_people.value == pytest.approx(1 / 2)
    assert found["mills"].with_people.value == 0
    assert found["mills"].of_people.value is None
    with pytest.raises(DataError, match="no prompt has the tag 'mood'"):
        check_category([Candidates(prompt=each.prompt, responses=each.responses) for each in JUDGE], "mood")


def test_the_win_rate_of_the_first_and_how_often_people_prefer_the_longer() -> None:
    found = calibrated(JUDGE, PEOPLE, PAIRS, category="", seed=0)
    rate = found.win_rate
    assert rate is not None
    assert rate.judge.value == pytest.approx((0 + 0 + 0 + 0.5) / 4)
    assert rate.people.value == pytest.approx((0 + 0.5 + 1) / 3)
    assert (rate.judged, rate.judged_by_people) == (4, 3)
    assert found.longer.value == pytest.approx(3 / 5)
    assert found.categories == {}
    assert numbers_of(found)["win_rate_of_people"] == pytest.approx(0.5)
    report = Report("x")
    add_calibrated(report, found, Estimate(1.0))
    assert "counts 0.00" in report.html(), "it says the same of all that people judged"


def test_what_is_no_pair_is_refused() -> None:
    prompt = Prompt.from_text("What?")
    alone = Candidates(prompt=prompt, responses=(SHORT, SHORT))
    with pytest.raises(DataError, match="a record has 1 different answers: 'What"):
        pairs_of([alone])
    both = [Candidates(prompt=prompt, responses=pair) for pair in ((SHORT, LONG), (LONG, SHORT))]
    with pytest.raises(DataError, match="a pair is there in both orders"):
        pairs_of(both)
