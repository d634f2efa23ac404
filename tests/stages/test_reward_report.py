"""What is reported of a reward model on held-out judgements, against sums over a handful of them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from palate.evals.report import Report
from palate.recipe import Objective
from palate.records import Prompt, Ranking, Response
from palate.rewards.heads import Head
from palate.stages.reward_report import Orders, add_pictures, by_source, measure
from palate.stages.teaching import lessons_in

P, Q = Prompt.from_text("p"), Prompt.from_text("q")
TEXTS = {(P.id, "a"): 0, (P.id, "b b"): 1, (Q.id, "c c c"): 2, (Q.id, "d"): 3}


def judged(prompt: Prompt, ranks: tuple[int, int], labeler: str, **said: Any) -> Ranking:
    texts = [text for of, text in TEXTS if of == prompt.id]
    return Ranking(
        prompt=prompt, responses=tuple(Response(text=text) for text in texts), ranks=ranks, labeler=labeler, **said
    )


RANKINGS = [
    judged(P, (1, 2), "ann", ratings=(6, 2), flags=((), ("x",))),
    judged(Q, (2, 1), "ann", ratings=(3, 5), flags=(("x",), ())),
    judged(Q, (1, 2), "bob"),
]
THRESHOLDS = ((-2.0, -1.0, -0.5, 0.5, 1.0, 2.0), (-1.5, -1.0, 0.0, 0.1, 1.5, 3.0))
SCORES = np.array([[1.0, 0.5], [-1.0, 0.7], [2.0, 0.0], [0.5, 0.8]])
LOG_ODDS = np.array([[-1.0, -2.0], [0.5, -0.2], [1.5, 0.1], [0.3, 0.5]])
GOOD, FLAGGED = Objective(name="good", learns="both"), Objective(name="bad", flag="x")


def reported(*objectives: tuple[Objective, list[Head], np.ndarray[Any, Any]]) -> dict[str, Any]:
    """The numbers, from the heads' own outputs on the four responses."""
    responses: Any = SimpleNamespace(rankings=RANKINGS, row_of=TEXTS)
    known = [objective for objective, _, _ in objectives]

    def taught(ranking: Ranking) -> list[Any]:
        return [lesson for number, one in enumerate(known) for lesson in lessons_in(ranking, number, one)]

    taught.objectives = known  # type: ignore[attr-defined]
    lessons: Any = taught
    raw = torch.from_numpy(np.concatenate([outputs for *_, outputs in objectives], 1))
    numbers, findings, _ = measure(raw, responses, lessons, [head for _, of, _ in objectives for head in of], seed=0)
    assert [finding.name for finding in findings] == [objective.name for objective in known]
    return numbers


def two(objective: Objective, outputs: np.ndarray[Any, Any]) -> tuple[Objective, list[Head], np.ndarray[Any, Any]]:
    """An ensemble of two heads."""
    flag = objective.flag
    return objective, [Head(flag=flag, thresholds=() if flag else each) for each in THRESHOLDS], outputs


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_accuracy_by_source_by_hand() -> None:
    """Three pairs of people, one of two prompts wrong; one mined from a forum, right; a tie of margins counts half."""
    orders = Orders(
        margins=np.array([[1.0], [-1.0], [2.0], [3.0], [0.0]]),
        prompts=["p", "q", "q", "p", "r"],
        texts=[("b b", "a"), ("a", "b b"), ("b b", "a"), ("a", "b b"), ("a", "b b")],
        sources=["human", "human", "human", "forum", "abstention"],
    )
    found = by_source(orders, seed=0)
    assert list(found) == ["human", "forum", "abstention"]
    assert found["human"]["accuracy"] == pytest.approx(2 / 3)
    assert found["human"]["longer_wins"] == pytest.approx(2 / 3)
    assert (found["human"]["held_out_pairs"], found["human"]["held_out_prompts"]) == (3, 2)
    assert (found["forum"]["accuracy"], found["forum"]["longer_wins"]) == (1, 0)
    assert found["abstention"]["accuracy"] == pytest.approx(0.5)


def test_the_report_has_the_sources_of_the_rankings() -> None:
    """The source goes from the record to the page, objective by objective."""
    mined = [*RANKINGS[:1], *(ranking.model_copy(update={"source": "forum"}) for ranking in RANKINGS[1:])]
    responses: Any = SimpleNamespace(rankings=mined, row_of=TEXTS)

    def taught(ranking: Ranking) -> list[Any]:
        return lessons_in(ranking, 0, Objective(name="good"))

    taught.objectives = [Objective(name="good")]  # type: ignore[attr-defined]
    lessons: Any = taught
    _, findings, agreed = measure(torch.from_numpy(SCORES), responses, lessons, [Head(), Head()], seed=0)
    report = Report("Rewards")
    add_pictures(report, findings, agreed, seed=0)
    told = report.numbers["accuracy_by_source"]
    assert {source: numbers["held_out_pairs"] for source, numbers in told.items()} == {"forum": 2, "human": 1}
    assert "Accuracy by source of the judgements" in report.html()
    assert "<td>forum</td>" in report.html()


def test_orders_by_hand() -> None:
    found = reported(two(GOOD, SCORES))
    better, worse = [0, 3, 2], [1, 2, 3]  # of ann's two rankings, and of bob's, who says the opposite
    margins = SCORES[better] - SCORES[worse]  # [3, 2]
    mean = margins.mean(1)
    assert found["held_out_pairs"] == 3
    assert found["held_out_prompts"] == 2
    assert found["accuracy"] == pytest.approx(np.mean(mean > 0))
    assert found["accuracy_of_one_head"] == pytest.approx(np.mean([(of > 0).mean() for of in margins.T]))
    assert found["longer_wins"] == pytest.approx(1 / 3)
    assert found["log_loss"] == pytest.approx(np.mean([-math.log(sigmoid(each)) for each in mean]))
    claims = np.array([[sigmoid(each) for each in row] for row in margins])
    apart = claims.std(1)
    assert found["disagreement"] == pytest.approx(apart.mean())
    assert 0 < found["calibration_error"] < 1
    wins = [float(apart[i] > apart[j]) for i in range(3) for j in range(3) if mean[i] <= 0 < mean[j]]
    assert wins
    assert found["disagreement_foretells_error"] == pytest.approx(np.mean(wins))


def test_ratings_by_hand() -> None:
    found = reported(two(GOOD, SCORES))
    expected = []
    for scores in SCORES:
        of_heads = []
        for score, thresholds in zip(scores, THRESHOLDS, strict=True):
            at_most = [0.0, *(sigmoid(each - score) for each in thresholds), 1.0]
            of_heads.append(sum(rating * p for rating, p in enumerate(np.diff(at_most), 1)))
        expected.append(np.mean(of_heads))
    ratings = [6, 2, 3, 5]
    assert found["held_out_ratings"] == 4
    assert found["rating_error"] == pytest.approx(np.mean([abs(a - b) for a, b in zip(expected, ratings, strict=True)]))
    assert found["rating_error_of_median"] == pytest.approx((2 + 2 + 1 + 1) / 4)


def test_flags_by_hand() -> None:
    found = reported(two(FLAGGED, LOG_ODDS))
    flags, odds = [0, 1, 1, 0], LOG_ODDS.mean(1)
    chances = [sigmoid(each) for each in odds]
    assert found["held_out_labels"] == 4
    assert found["flag_share"] == 0.5
    assert found["flag_predicted"] == pytest.approx(np.mean(chances))
    losses = [-math.log(p if flag else 1 - p) for p, flag in zip(chances, flags, strict=True)]
    assert found["flag_log_loss"] == pytest.approx(np.mean(losses))
    assert found["flag_auc"] == pytest.approx(np.mean([odds[i] > odds[j] for i in (1, 2) for j in (0, 3)]))
    assert "accuracy" not in found
    assert "rating_error" not in found


def test_several_objectives_are_told_apart_by_name() -> None:
    """Each from its own columns, as it would be told alone."""
    both = reported(two(FLAGGED, LOG_ODDS), two(GOOD, SCORES))
    alone = {"bad": reported(two(FLAGGED, LOG_ODDS)), "good": reported(two(GOOD, SCORES))}
    people = {name: value for name, value in both.items() if name.startswith("agreement")}
    expected = {
        f"{objective}_{name}": value
        for objective, numbers in alone.items()
        for name, value in numbers.items()
        if name not in people
    }
    assert both == expected | people


def test_one_head_has_nobody_to_disagree_with() -> None:
    found = reported((GOOD, [Head(thresholds=THRESHOLDS[0])], SCORES[:, :1]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert "disagreement" not in found
    assert "accuracy_of_one_head" not in found
