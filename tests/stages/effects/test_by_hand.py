"""Whole runs of PPO and REINFORCE against the same steps computed by hand: what they logged, and their weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.stages.effects import by_hand, judges
from tests.stages.effects.runs import Outcome, Runs

from palate.rollout.engine import Rollout

OPTIMIZER = {
    "learning_rate": 2e-2,
    "schedule": "linear",
    "warmup": 0.2,
    "weight_decay": 0.1,
    "beta1": 0.8,
    "beta2": 0.9,
    "epsilon": 1e-2,
    "max_grad_norm": 0.5,
}
ROLLOUT = {
    "seed": 7,
    "steps": 3,
    "prompts_per_step": 4,
    "sampling.temperature": 0.8,
    "sampling.max_new_tokens": 8,
    "rewards.0.weight": 0.5,
    "truncation_score": -1.0,
    "kl_coef": 0.3,
    "microbatch_tokens": 100,
    "optimizer": OPTIMIZER,
}
PPO: dict[str, dict[str, Any]] = {
    "everything at once": {
        "value_model": "$calibrated",
        "kl_target": 0.5,
        "kl_horizon": 30,
        "whiten_rewards": True,
        "gamma": 0.9,
        "gae_lambda": 0.7,
        "clip_range": 0.05,
        "clip_range_value": 0.01,
        "epochs": 2,
        "minibatches": 2,
        "value_warmup": 1,
        "pretraining": {
            "data": {"path": "$records_texts"},
            "coef": 0.7,
            "sequences_per_step": 2,
            "sequence_length": 16,
        },
        "value_optimizer": OPTIMIZER | {"learning_rate": 1e-2, "beta1": 0.7, "max_grad_norm": 2.0},
    },
    "as little as there can be": {"value_model": "$scorer", "epochs": 2},
}


def check(told: Iterable[by_hand.Told], outcome: Outcome) -> None:
    """Everything that is expected was logged, and nothing but times beside it; and so with the credit of tokens."""
    for step, ((expected, credit), row) in enumerate(zip(told, outcome.metrics, strict=True)):
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=2e-5), f"step {step}: {name}"
        beside = set(row) - set(expected) - {"step", "data/left_out"}
        assert all(name.startswith(("time/", "policy/", "sampler/")) for name in beside), beside
        check_samples([line for line in outcome.lines("samples.jsonl") if line["step"] == step], credit, outcome, step)


def check_samples(
    shown: list[dict[str, Any]], credit: dict[str, list[torch.Tensor]], outcome: Outcome, step: int
) -> None:
    """A few responses were shown, and of each of their tokens what the losses saw."""
    rollout = outcome.rollouts[step]
    places = range(0, len(rollout.texts), len(rollout.texts) // 4)
    for place, row in zip(places, shown, strict=True):
        said = row["credit"]
        assert said.keys() == {"tokens", *credit}
        assert (row["prompt"], row["response"]) == (rollout.prompts[place].text, rollout.texts[place])
        assert said["tokens"][-1].endswith("<|im_end|>") == bool(rollout.ended[place])
        assert said_by(said["tokens"]) == said_by([row["response"]])
        for name, rows in credit.items():
            assert said[name] == pytest.approx(rows[place].tolist(), rel=2e-3, abs=1e-4), f"step {step}: {name}"


def said_by(pieces: list[str]) -> str:
    """All that they say, without special tokens and broken characters."""
    return re.sub(r"<\|\w+\|>|\ufffd", "", "".join(pieces)).strip()


@pytest.mark.parametrize("case", PPO)
def test_ppo(case: str, runs: Runs) -> None:
    outcome = runs("ppo", ROLLOUT | PPO[case])
    recipe = outcome.recipe
    mean, scale = (0.3, 0.5) if case == "everything at once" else (0.0, 1.0)
    check(by_hand.ppo(outcome, judges.lower_case, value_mean=mean, value_scale=scale), outcome)
    # what is checked did happen
    assert all(0 < float(rollout.ended.double().mean()) < 1 for rollout in outcome.rollouts)
    last = outcome.metrics[-1]
    for fraction in ("policy/clip_fraction", "value/clip_fraction"):
        assert any(0 < row.get(fraction, 0) < 1 for row in outcome.metrics)
    assert max(abs(row["objective/kl"]) for row in outcome.metrics) > 0.05
    assert len(outcome.updates["value"][0].learned) > 1  # microbatches
    if recipe.kl_target is not None:
        assert last["objective/kl_coef"] != pytest.approx(recipe.kl_coef, rel=0.01)


ANYTHING = {"rewards.0.function": "tests.stages.effects.judges:unlike", "truncation_score": None}
"""No advantage is zero but for rounding, which would then say what is clipped."""
SEVERAL = ANYTHING | {"epochs": 2, "minibatches": 2}
DESCENDANTS: dict[str, dict[str, Any]] = {
    "GRPO": SEVERAL
    | {"baseline": "group_normalized", "clip_range": 0.05, "denominator": "sequences", "kl_loss_coef": 0.5},
    "Dr. GRPO": SEVERAL | {"baseline": "group_mean", "clip_range": 0.05, "denominator": "constant"},
    "DAPO": SEVERAL | {"baseline": "group_normalized", "clip_range": 0.02, "clip_range_high": 0.1},
    "GSPO": SEVERAL
    | {"surrogate": "sequence", "clip_range": 0.01, "clip_range_high": 0.02, "denominator": "sequences"},
    "CISPO": SEVERAL | {"surrogate": "weight", "clip_range": 1.0, "clip_range_high": 0.05, "kl_loss_coef": 0.1},
    "the mean of the rollout": SEVERAL | {"baseline": "batch_mean", "clip_range": 0.1, "denominator": "sequences"},
    "no baseline": ANYTHING | {"baseline": "none"},
}


@pytest.mark.parametrize("case", DESCENDANTS)
def test_descendants_of_reinforce(case: str, runs: Runs) -> None:
    outcome = runs("reinforce", ROLLOUT | DESCENDANTS[case])
    check(by_hand.reinforce(outcome, judges.unlike), outcome)
    if outcome.recipe.clip_range is not None:
        assert any(0 < row["policy/clip_fraction"] < 1 for row in outcome.metrics)
    assert len(outcome.updates["policy"][0].learned) > 1  # microbatches


def test_reinforce(runs: Runs) -> None:
    outcome = runs("reinforce", ROLLOUT)
    check(by_hand.reinforce(outcome, judges.lower_case), outcome)
    assert abs(outcome.metrics[-1]["objective/kl"]) > 0.005
    assert any(row["policy/grad_norm"] > outcome.recipe.optimizer.max_grad_norm for row in outcome.metrics)
    assert len(outcome.updates["policy"][0].learned) > 1
    for row in outcome.metrics:
        assert row["policy/ratio_mean"] == pytest.approx(1, abs=1e-5)


def unlike_the_trainer(rollout: Rollout) -> Rollout:
    """As a sampler would give it that has other weights."""
    return replace(rollout, logprobs=torch.where(rollout.sequences.mask, rollout.logprobs - 0.3, 0.0))


@pytest.mark.parametrize("stage", ["ppo", "reinforce"])
def test_a_sampler_that_is_not_the_trainer_ends_the_run_before_anything_is_learned(stage: str, runs: Runs) -> None:
    outcome = runs(stage, {}, spoil=unlike_the_trainer)
    assert "step 0: sampling and training differ" in outcome.error
    assert not outcome.updates
    assert not outcome.metrics


def one_token_off(rollout: Rollout) -> Rollout:
    """Half a nat less likely than it was: a ratio of 1.65."""
    logprobs = rollout.logprobs.clone()
    row, position = rollout.sequences.mask.nonzero()[0]
    logprobs[row, position] -= 0.5
    return replace(rollout, logprobs=logprobs)


@pytest.mark.parametrize(("clip_range", "outside"), [(None, 1), (0.6, 1), (0.7, 0)])
def test_ratios_that_would_be_clipped_are_counted_before_the_update(
    clip_range: float | None, outside: int, runs: Runs
) -> None:
    """By PPO's usual range where nothing is clipped."""
    settings = ROLLOUT | {"steps": 1, "clip_range": clip_range}
    outcome = runs("reinforce", settings, spoil=one_token_off)
    assert not outcome.error
    num_tokens = int(outcome.rollouts[0].sequences.mask.sum())
    assert outcome.metrics[0]["sampler/outside_clip_range"] == pytest.approx(outside / num_tokens)
    assert outcome.metrics[0]["sampler/gap_max"] == pytest.approx(0.5, abs=1e-3)
