"""What is kept of a policy's answers, of judgements, and what the page makes of them, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.experiments.rounds.conftest import HELD_OUT

from palate.experiments.rounds.held_out import Kept, Line, Measuring
from palate.experiments.rounds.labels import Labels, described
from palate.experiments.rounds.rounds_page import Round, panels_of, told, write_report
from palate.intervals import Estimate
from palate.lm.sources.zoo import load_language_model, load_scalar_model, save
from palate.recipe import WinRateRecipe, parse_recipe
from palate.records import Prompt, Ranking, Response
from palate.rewards.learned import LearnedReward
from palate.run.directory import Run


def kept(*scores: tuple[float, ...], kl: float = 0.0, text: str = "a b") -> Kept:
    return Kept(
        lines=tuple(
            Line(prompt=f"What of {n}?", responses=(text,) * len(row), scores=row, ended=(True,) * len(row), kl=kl)
            for n, row in enumerate(scores)
        )
    )


def labels(**foretold: Estimate) -> Labels:
    return Labels(
        judgements=8,
        prompts=4,
        agreement=Estimate(0.8),
        longer=Estimate(0.4),
        foretold={int(name[1:]): found for name, found in foretold.items()},
        notes=("1 of 4 prompts were not judged",),
    )


def test_a_policy_answers_as_it_would_in_an_evaluation(tree: dict[str, Any], tmp_path: Path) -> None:
    given = {
        "baseline": "tiny",
        "prompts": tree["held_out"],
        "judge": tree["taste"],
        "sampling": tree["sampling"],
        "precision": "fp32",
    }
    recipe = parse_recipe(WinRateRecipe, {"model": "tiny", **given})
    measuring = Measuring(recipe, Run.open(tmp_path / "run", recipe))
    first = measuring.first_answers()
    loaded = load_language_model("tiny", precision="fp32")
    with torch.no_grad():
        loaded.model.model.upper(0)[-1].mlp.down_proj.weight.mul_(3)
    save(loaded.model, loaded.chat, tmp_path / "other")
    other = measuring.answers(str(tmp_path / "other"))
    assert first.scores.shape == other.scores.shape == (HELD_OUT, 2)
    assert first.scores == pytest.approx(-first.words / 10)  # the whole taste
    assert [line.kl for line in first.lines] == pytest.approx([0] * HELD_OUT, abs=1e-5)
    assert np.mean([line.kl for line in other.lines]) > 0.01
    assert first.win_rate(first, seed=0).rate == 0.5
    other.write(tmp_path / "answers.jsonl")
    assert Kept.read(tmp_path / "answers.jsonl") == other


def test_fresh_judgements_are_foretold_as_the_reward_model_scores_them(tmp_path: Path) -> None:
    scorer = load_scalar_model("tiny", precision="fp32", seed=1)
    save(scorer.model, scorer.chat, tmp_path / "reward")
    score = LearnedReward(str(tmp_path / "reward"), precision="fp32")
    rankings = []
    for n in range(5):
        prompt, texts = Prompt.from_text(f"What of {n}?"), (f"{n} it is.", "No, never.")
        first, second = score([prompt] * 2, texts).tolist()
        as_scored = (1, 2) if first > second else (2, 1)
        for labeler, ranks in (("ann", as_scored), ("bob", as_scored[::-1] if n == 0 else as_scored)):
            responses = tuple(Response(text=text) for text in texts)
            rankings.append(Ranking(prompt=prompt, responses=responses, ranks=ranks, labeler=labeler))
    found = described(rankings, {3: str(tmp_path / "reward")}, precision="fp32", seed=0, notes=("so it is",))
    assert found.foretold[3].value == pytest.approx(9 / 10)
    assert (found.judgements, found.prompts) == (10, 5)
    assert found.agreement.value == pytest.approx(4 / 5)
    longer = sum(ranking.ranks == (1, 2) for ranking in rankings)  # three words against two
    assert found.longer.value == pytest.approx(longer / 10)
    found.write(tmp_path / "labels.json")
    assert Labels.read(tmp_path / "labels.json") == found


def test_a_round_against_the_first_model_and_its_control() -> None:
    first = kept((1.0, 2.0), (1.0, 2.0), (1.0, 1.0))
    ours, control = kept((3.0, 3.0), (2.0, 0.0), (1.0, 1.0), kl=0.5), kept((0.0, 0.0), (3.0, 3.0), (1.0, 2.0))
    each = Round(
        number=2,
        labels=labels(r1=Estimate(0.6)),
        learned_from=16,
        accuracy=Estimate(0.7),
        answers=ours,
        control=control,
    )
    found = told(each, first, seed=0)
    assert found.figures.win_rate.value == pytest.approx((1 + 0.375 + 0.5) / 3)
    assert found.control is not None
    assert found.control.win_rate.value == pytest.approx((0 + 1 + 0.75) / 3)
    assert found.more.value == pytest.approx((1 + 0.375 + 0.5) / 3 - (0 + 1 + 0.75) / 3)
    assert found.figures.kl.value == 0.5
    assert found.figures.words.value == 2


def test_what_the_picture_shows(tmp_path: Path) -> None:
    first, better = kept((1.0,), (1.0,)), kept((2.0,), (1.0,))
    rounds = [
        Round(number=1, labels=labels(), learned_from=8, accuracy=Estimate(None), answers=better, control=None),
        Round(
            number=2, labels=labels(r1=Estimate(0.6)), learned_from=16, accuracy=Estimate(0.7), answers=better,
            control=first,
        ),
        Round(
            number=3, labels=labels(r1=Estimate(0.5), r2=Estimate(0.7)), learned_from=24, accuracy=Estimate(0.7),
            answers=better, control=first,
        ),
    ]  # fmt: skip
    panels = panels_of([told(each, first, seed=0) for each in rounds])
    won = {label: {n: found.value for n, found in line.items()} for label, line in panels["Win rate"].items()}
    assert won == {"rounds": {1: 0.75, 2: 0.75, 3: 0.75}, "without new labels": {1: 0.75, 2: 0.5, 3: 0.5}}
    foretold = {label: {n: found.value for n, found in line.items()} for label, line in panels["Foretold"].items()}
    assert foretold == {"by the round before": {2: 0.6, 3: 0.7}, "by round 1": {2: 0.6, 3: 0.5}}
    assert {n: found.value for n, found in panels["Judgements learned from"][""].items()} == {1: 8, 2: 16, 3: 24}

    write_report(tmp_path, rounds, first, asked=4, seed=0, seconds=1.0, notes=["so"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for part in (
        "3 of 4 rounds",
        "round 2, without new labels",
        "round 3: 1 of 4 prompts were not judged",
        "<p>so</p>",
    ):
        assert part in page
    alone = [told(each, first, seed=0) for each in rounds[:1]]
    assert list(panels_of(alone)) == ["Win rate", "KL", "Judgements learned from"]
    assert list(panels_of(alone)["Win rate"]) == ["rounds"]
