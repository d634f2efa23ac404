"""Evaluation: the KL that a win rate cost, what is shown of the responses, and what of a taste was learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate.demo.prompts import demo_prompts
from palate.evals.report import Report
from palate.evals.taste_parts import describe_scores, mean_score
from palate.evals.winrate import win_rate
from palate.intervals import Estimate, ratio_estimate
from palate.lm.batch import Sequences
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Sampling, SFTRecipe, WinRateRecipe, parse_recipe
from palate.records import Prompt
from palate.rewards.rules import FunctionReward
from palate.rollout.engine import Rollout, SampledTokens
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages import evaluate, sft


def test_the_kl_is_that_of_each_response_and_its_interval_is_by_prompt() -> None:
    model, reference = load_language_model("tiny", precision="fp32"), load_language_model("tiny", precision="fp32")
    with torch.no_grad():
        for parameter in reference.model.parameters():
            parameter += 0.1 * torch.sin(torch.arange(parameter.numel(), dtype=torch.float32)).view_as(parameter)
    engine = LocalEngine(model.model, model.chat)
    rollout = engine.generate(
        demo_prompts(held_out=True)[:5], Sampling(max_new_tokens=6), num_responses=3, key=(0, "evaluation")
    )
    found = evaluate.divergence(rollout, reference.model, num_prompts=5, seed=0)

    of_each = []
    for row in range(15):
        alone = rollout.sequences.select(torch.tensor([row]))
        with torch.no_grad():
            ours, theirs = (it.model.logprobs(alone, temperature=rollout.temperature) for it in (model, reference))
        of_each.append(float((ours - theirs)[alone.mask].sum()))
    by_prompt = np.array(of_each).reshape(5, 3).mean(1)
    expected = ratio_estimate(by_prompt, np.ones(5), seed=0)
    assert expected.low is not None
    assert expected.high is not None
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-4
    )
    assert float(np.ptp(by_prompt)) > 0.01


def test_the_report_has_the_interval_of_the_kl(
    settings: dict[str, dict[str, Any]], data: dict[str, str], tmp_path: Path
) -> None:
    learned = parse_recipe(SFTRecipe, settings["sft"] | {"optimizer": {"learning_rate": 1e-2}})
    sft.train(learned, Run.open(tmp_path / "sft", learned))
    tree = {
        "model": str(tmp_path / "sft"),
        "baseline": "tiny",
        "precision": "fp32",
        "prompts": {"path": data["prompts"], "limit": 6},
        "judge": {"length": 3.0},
        "sampling": {"max_new_tokens": 4},
    }
    recipe = parse_recipe(WinRateRecipe, tree)
    evaluate.evaluate(recipe, Run.open(tmp_path / "eval", recipe))
    report = json.loads((tmp_path / "eval" / "report.json").read_text(encoding="utf-8"))
    assert report["kl_low"] < report["kl"] < report["kl_high"]
    assert report["win_rate_low"] < report["win_rate"] < report["win_rate_high"]
    assert 0 <= report["win_rate_length_controlled_low"] < report["win_rate_length_controlled_high"] <= 1


WARM = "What a lovely day this is, and I am glad."
COLD = "It is a day like any other day, and that is all."


def answered(texts: Sequence[Sequence[str]], prompts: Sequence[Prompt]) -> evaluate.Answers:
    """Answers as if a model had given them, judged by the demonstration's taste; [P, M] texts."""
    flat = tuple(text for row in texts for text in row)
    asked = tuple(prompt for prompt, row in zip(prompts, texts, strict=True) for _ in row)
    judge, shape = FunctionReward("palate.simulated.tastes:sunny_and_to_the_point"), (len(prompts), len(texts[0]))
    scores = judge(asked, flat)
    parts = {name: part.double().numpy().reshape(shape) for name, part in judge.parts(asked, flat).items()}
    rollout = Rollout(
        prompts=asked,
        texts=flat,
        sequences=Sequences.pack([[1]] * len(flat), [[2]] * len(flat)),
        logprobs=torch.zeros(len(flat), 2),
        ended=torch.ones(len(flat), dtype=torch.bool),
        temperature=1.0,
    )
    return evaluate.Answers(rollout=rollout, scores=scores.double().numpy().reshape(shape), parts=parts)


def compared(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], *, seed: int = 0) -> evaluate.Comparison:
    """40 prompts at most, as many as there are rows."""
    prompts = demo_prompts(held_out=True)[: len(before)]
    theirs, ours = answered(before, prompts), answered(after, prompts)
    return evaluate.Comparison(
        model=ours,
        baseline=theirs,
        win_rate=win_rate(ours.scores, theirs.scores, seed=seed),
        kl=Estimate(1.0),
        seed=seed,
    )


def described(found: evaluate.Comparison) -> tuple[dict[str, Any], str]:
    """Numbers and page."""
    report = Report("title")
    evaluate.describe(report, found)
    return report.numbers, report.html()


def test_what_is_shown_is_chosen_at_random_by_the_seed() -> None:
    before = [[f"Before {row}, first.", f"Before {row}, second."] for row in range(40)]
    after = [[f"After {row}, first.", f"After {row}, second."] for row in range(40)]
    once, again, another = (described(compared(before, after, seed=seed))[0]["texts"] for seed in (0, 0, 1))
    assert once == again != another
    rows = [int(text["before"].split()[1].rstrip(",")) for text in once]
    assert len(set(rows)) == len(rows) == 10
    assert rows != sorted(rows)
    prompts = demo_prompts(held_out=True)
    for row, text in zip(rows, once, strict=True):
        assert text == {
            "prompt": prompts[row].text,
            "before": f"Before {row}, first.",
            "after": f"After {row}, first.",
        }


def test_the_worst_are_the_greatest_losses_one_of_each_prompt() -> None:
    before, after = [[COLD, COLD] for _ in range(8)], [[WARM, WARM] for _ in range(8)]
    before[6], after[6] = [COLD, WARM], [WARM, ""]  # the greatest loss, in the second response
    before[2], after[2] = [WARM, WARM], [COLD, COLD]  # two equal losses: shown once
    numbers, page = described(compared(before, after))
    prompts = demo_prompts(held_out=True)
    assert [row["prompt"] for row in numbers["worst"]] == [prompts[6].text, prompts[2].text]
    assert (numbers["worst"][0]["before"], numbers["worst"][0]["after"]) == (WARM, "")
    assert numbers["worst"][0]["score after"] == -2
    assert "The worst 2" in page
    assert described(compared(before[:2], after[:2]))[0]["worst"] == []


def test_the_report_shows_each_part_of_the_judges_score_and_where_it_was_won() -> None:
    numbers, page = described(compared([[COLD]] * 40, [[WARM]] * 40))
    assert numbers["scores"]["direction"] == "rose"
    assert numbers["scores"]["before"] < numbers["scores"]["after"]
    assert numbers["parts"]["warmth"]["direction"] == "rose"
    assert numbers["parts"]["point"]["direction"] == "no clear change"
    assert "The score gained by: warmth (+" in page
    (inside,) = numbers["win_rate_by_length"]  # ten words against twelve
    assert (inside["words_from"], inside["words_to"], inside["win_rate"], inside["pairs"]) == (-2, 2, 1.0, 40)


def test_a_judge_that_checks_has_the_share_that_is_right_before_and_after() -> None:
    """1 of 40 right before, by Clopper and Pearson's interval of 1 in 40, and 21 of 40 after."""
    wrong, right = np.zeros((40, 1)), np.ones((40, 1))
    before, after = wrong.copy(), np.concatenate([right[:20], wrong[:20]])
    before[39] = after[39] = 1.0
    report = Report("title")
    describe_scores(report, before, after, seed=0)
    found = report.numbers["scores"]
    assert (found["before"], found["after"], found["change"], found["direction"]) == (0.025, 0.525, 0.5, "rose")
    assert (found["before_low"], found["before_high"]) == pytest.approx((0.000633, 0.131586), abs=1e-5)
    assert 0.3 < found["change_low"] < 0.5 < found["change_high"] < 0.7
    assert "0.025 (0.001 to 0.132)" in report.html()


def test_the_mean_of_scores_that_are_no_shares_may_leave_the_unit_interval() -> None:
    found = mean_score(np.array([[-3.0], [1.0]] * 20), seed=0)
    assert found.value == -1.0
    assert found.low is not None
    assert found.low < -1.0


def test_the_signs_of_decay_have_an_interval_of_their_change() -> None:
    numbers, page = described(compared([[COLD], [WARM]] * 20, [["Yes."], [WARM]] * 20))
    few = numbers["text"]["under_four_words"]
    assert (few["before"], few["after"], few["change"]) == (0.0, 0.5, 0.5)
    assert 0.3 < few["change_low"] < 0.5 < few["change_high"] < 0.7
    assert numbers["text"]["finished"]["change"] == 0
    assert "under four words" in page


def test_the_reward_models_accuracy_on_the_parts_of_the_taste() -> None:
    shown = [[WARM, COLD, "It is so.", "I hate this sad day"]] * 40
    answers = answered(shown, demo_prompts(held_out=True)[:40])

    def prefers_the_finished(
        prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> torch.Tensor:
        return torch.tensor([float(text.endswith(".")) for text in responses])

    report = Report("title")
    evaluate.describe_reward_model(report, answers, prefers_the_finished, seed=0)
    found = report.numbers["reward_model_on_parts"]
    assert list(found) == ["all together", "warmth", "point", "length", "broken"]
    assert (found["broken"]["accuracy"], found["broken"]["pairs"], found["broken"]["ties"]) == (1.0, 120, 120)
    assert found["point"]["accuracy"] is None  # nobody names the subject: nothing but ties
    assert "Without an interval: point." in report.html()


def test_a_judge_that_does_not_say_what_its_scores_are_made_of_has_no_parts(
    settings: dict[str, dict[str, Any]], data: dict[str, str], tmp_path: Path
) -> None:
    tree = {
        "model": "tiny",
        "baseline": "tiny",
        "precision": "fp32",
        "prompts": {"path": data["prompts"], "limit": 3},
        "judge": {"function": "palate.simulated.tastes:sunny_and_to_the_point"},
        "sampling": {"max_new_tokens": 4},
    }
    for number, judge in enumerate([tree["judge"], {"function": "palate.simulated.tastes:short"}]):
        recipe = parse_recipe(WinRateRecipe, tree | {"judge": judge})
        evaluate.evaluate(recipe, Run.open(tmp_path / str(number), recipe))
        report = json.loads((tmp_path / str(number) / "report.json").read_text(encoding="utf-8"))
        assert ("parts" in report) == (number == 0)
