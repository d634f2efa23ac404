"""Every stage runs on the tiny model, and what must not depend on how a batch is computed does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from palate.errors import TrainingError
from palate.lm import model as lm_model
from palate.recipe import (
    DistillRecipe,
    DPORecipe,
    KTORecipe,
    OnlineDPORecipe,
    PPORecipe,
    RAFTRecipe,
    ReinforceRecipe,
    RewardRecipe,
    SFTRecipe,
    parse_recipe,
)
from palate.run.directory import Run
from palate.stages import dpo, kto, reward, sft
from palate.stages.own_samples import distill, online_dpo, raft
from palate.stages.reinforcement import ppo, reinforce
from palate.stages.reinforcement.watching import Watch

STAGES: dict[str, tuple[Any, Any]] = {
    "sft": (SFTRecipe, sft.train),
    "reward": (RewardRecipe, reward.train),
    "dpo": (DPORecipe, dpo.train),
    "kto": (KTORecipe, kto.train),
    "reinforce": (ReinforceRecipe, reinforce.train),
    "ppo": (PPORecipe, ppo.train),
    "online-dpo": (OnlineDPORecipe, online_dpo.train),
    "raft": (RAFTRecipe, raft.train),
    "distill": (DistillRecipe, distill.train),
}


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def settings(request: pytest.FixtureRequest, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All of this file in both precisions."""
    return {stage: tree | {"precision": request.param} for stage, tree in settings.items()}


def trained(stage: str, tree: dict[str, Any], out: Path) -> dict[str, Tensor]:
    kind, train = STAGES[stage]
    run = Run.open(out, parse_recipe(kind, tree))
    train(parse_recipe(kind, tree), run)
    return load_file(out / "model" / "model.safetensors")


def logged(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 2e-6) -> None:
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=atol)


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_microbatches_and_trunk_change_nothing(
    stage: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = settings[stage] | ({"epochs": 1} if stage in ("sft", "reward", "dpo", "kto") else {})
    if tree["precision"] == "bf16" and "steps" in tree:
        # what the first step leaves of rounding may round a weight to another bf16, by which the second draws otherwise
        tree = tree | {"steps": 1}
    tree = tree | {"optimizer": {"epsilon": 1e-3}}  # Adam would blow rounding up to a full step
    whole = trained(stage, tree, tmp_path / "whole")
    # weights move by 6e-6 to 9e-5; in bf16 sums of parts that differ by a bit are rounded apart, by 3e-6 at most here
    atol = 4e-6 if tree["precision"] == "bf16" else 2e-6
    assert_close(whole, trained(stage, tree | {"microbatch_tokens": 128}, tmp_path / "parts"), atol)
    monkeypatch.setattr(lm_model, "TRUNK_BYTES", 0)
    assert_close(whole, trained(stage, tree, tmp_path / "no-trunk"))


@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo"])
def test_frozen_layers_stay_and_the_others_move(
    stage: str, settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    from palate.lm.sources.zoo import locate

    before = load_file(locate("tiny") / "model.safetensors")
    after = trained(stage, settings[stage], tmp_path / "run")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {key for key in before if key.startswith(("model.layers.1", "model.layers.2", "model.norm"))}


def test_reinforce_learns_to_be_short(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    tree = settings["reinforce"] | {
        "rewards": [{"function": "tests.stages.test_stages:vowels"}],
        "steps": 25,
        "prompts_per_step": 8,
        "kl_coef": 0.0,
        "frozen_layers": 0,
        "optimizer": {"learning_rate": 1e-2, "schedule": "constant"},
    }
    trained("reinforce", tree, tmp_path / "run")
    scores = [row["objective/score"] for row in logged(tmp_path / "run")]
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 1.0


def vowels(prompts: Any, responses: Any) -> list[float]:
    """How many vowels a response has."""
    return [float(sum(character in "aeiou" for character in response)) for response in responses]


def test_value_model_starts_from_the_reward_model(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    trained("reward", settings["reward"], tmp_path / "reward")
    tree = settings["ppo"] | {"rewards": [{"model": str(tmp_path / "reward")}], "value_model": "", "steps": 1}
    trained("ppo", tree, tmp_path / "run")
    assert logged(tmp_path / "run")[0]["value/error"] < 100


@pytest.mark.parametrize(
    ("metrics", "cause"),
    [
        ({"objective/kl": -1.0, "policy/entropy": 1.0}, "negative"),
        ({"objective/kl": 1.0, "policy/entropy": 0.001}, "entropy"),
    ],
)
def test_a_run_gone_wrong_ends_and_says_why(metrics: dict[str, float], cause: str) -> None:
    watch = Watch(max_negative_kl=0.5, min_entropy=0.02)
    watch.check(0, metrics)
    watch.check(1, metrics)
    resumed = Watch(max_negative_kl=0.5, min_entropy=0.02)
    resumed.load_state_dict(watch.state_dict())
    for each in (watch, resumed):
        with pytest.raises(TrainingError, match=f"step 2.*{cause}"):
            each.check(2, metrics)


def test_one_bad_step_is_not_the_end() -> None:
    watch = Watch(max_negative_kl=0.5, min_entropy=0.02)
    for step in range(9):
        watch.check(step, {"objective/kl": -1.0 if step % 3 else 0.1, "policy/entropy": 1.0})
