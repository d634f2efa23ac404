"""Evaluation: the KL that a win rate cost, with its interval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate.demo.prompts import demo_prompts
from palate.intervals import ratio_estimate
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Sampling, SFTRecipe, WinRateRecipe, parse_recipe
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
    evaluate.train(recipe, Run.open(tmp_path / "eval", recipe))
    report = json.loads((tmp_path / "eval" / "report.json").read_text(encoding="utf-8"))
    assert report["kl_low"] < report["kl"] < report["kl_high"]
    assert report["win_rate_low"] < report["win_rate"] < report["win_rate_high"]
    assert 0 <= report["win_rate_length_controlled_low"] < report["win_rate_length_controlled_high"] <= 1
