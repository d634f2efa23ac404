"""Rows of the recipe of an agent."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.stages.effects.rows import Effect, Row, under
from tests.stages.effects.runs import Outcome
from tests.stages.effects.shared import cured, keeps_so_many, optimizer, refused, saves_after

from palate.errors import LabelsNeededError
from palate.recipe import AgentRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages.agent.agent import train
from palate.stages.agent.clip_answers import read_pairs

BASE: dict[str, Any] = {
    "environment": "Pendulum-v1",
    "num_environments": 2,
    "steps": 2,
    "steps_per_rollout": 20,
    "epochs": 1,
    "minibatches": 2,
    "hidden_size": 8,
    "evaluation_episodes": 1,
    "final_episodes": 1,
    "labels": {"budget": 10, "clip_length": 5, "ask_every": 1, "first_share": 0.0, "final_rate": 1.0},
    "reward_model": {"updates": 2, "batch_size": 4, "hidden_size": 8},
}
"""What all runs of it are variations of."""
ONCE = {"steps": 1}
"""Every optimizer has two updates, and one round of questions is asked."""


def agent() -> list[Row]:
    """Keys of an agent's recipe."""
    return [
        Row("stage", (None, "nonsense"), refused("'stage'")),
        Row("seed", (0, 1), differs("agent/return")),
        Row("environment", ("Pendulum-v1", "CartPole-v1"), acts_there),
        Row("reward", ("comparisons", "environment"), asks_nobody),
        Row("num_environments", (2, 3), takes_steps),
        Row("steps", (2, 3), takes_steps),
        Row("steps_per_rollout", (20, 30), takes_steps),
        Row("epochs", (1, 2), updates_so_often),
        Row("minibatches", (2, 3), updates_so_often),
        Row("hidden_size", (8, 12), has_this_shape),
        Row("layers", (1, 2), has_this_shape),
        Row("clip_range", (1e-7, 9.0), clips("policy")),
        Row("clip_range_value", (1e-7, 0.0), clips("value")),
        Row("gamma", (0.0, 0.9), differs("value/error"), ONCE),
        Row("gae_lambda", (0.0, 1.0), differs("value/error"), ONCE),
        Row("evaluate_every", (1, 2), evaluates, {"steps": 4}),
        Row("evaluation_episodes", (1, 3), differs("agent/return"), ONCE),
        Row("final_episodes", (1, 3), measures_again),
        Row("checkpoint_every", (1, 3), saves_after, {"steps": 4, "keep_checkpoints": 9}),
        Row("keep_checkpoints", (1, 2), keeps_so_many, {"steps": 4, "checkpoint_every": 1}),
        *under("labels", labels()),
        *under("reward_model", reward_model()),
        *of_small_networks("optimizer", "policy"),
        *of_small_networks("value_optimizer", "value"),
        *of_small_networks("reward_model.optimizer", "reward"),
    ]


def labels() -> list[Row]:
    """Keys of what is asked, and of whom."""
    disputed = {"labels.choose": "disagreement", "labels.candidates": 20}
    return [
        Row("teacher", ("perfect", "random"), answers_otherwise, {"labels.budget": 40}),
        Row("budget", (10, 14), asks([[5, 10], [7, 14]])),
        Row("clip_length", (5, 12), differs("reward/margin"), ONCE),
        Row("ask_every", (1, 2), asks([[5, 10], [10, None]])),
        Row("first_share", (0.0, 0.6), asks([[5, 10], [8, 10]])),
        Row("final_rate", (1.0, 0.1), asks([[5, 10], [7, 10]])),
        Row("choose", ("uniform", "disagreement"), chooses_what_is_disputed, disputed),
        Row("candidates", (1, 20), chooses_what_is_disputed, disputed),
        Row("recent", (1, 2), differs("labels/disagreement", first_alike=True), {"labels.choose": "uniform"}),
        Row("mistake_rate", (0.0, 1.0), says_the_opposite, ONCE | {"labels.teacher": "mistaken"}),
        Row("rationality", (1e-9, 1e9), answers_otherwise, ONCE | {"labels.teacher": "noisy", "labels.budget": 40}),
        Row("threshold", (0.0, 1.0), calls_more_equal, {"labels.teacher": "equal"}),
        Row("discount", (1.0, 0.01), answers_otherwise, {"labels.teacher": "myopic", "labels.budget": 80}),
        Row("rankings", ("", "$clip_rankings"), cured("wait for people"), {"labels.teacher": "people"}),
    ]


def reward_model() -> list[Row]:
    """Keys of the ensemble."""
    cautious = {"reward_model.aggregation": "mean_minus_std"}
    return [
        Row("members", (2, 4), has_so_many_members),
        Row("hidden_size", (8, 12), has_this_reward_shape),
        Row("layers", (1, 2), has_this_reward_shape),
        Row("updates", (2, 3), learns_rewards_so_often),
        Row("batch_size", (2, 4), differs("reward/loss"), ONCE),
        Row("bootstrap", (True, False), differs("reward/loss"), ONCE),
        Row("aggregation", ("mean", "min"), pays_otherwise, ONCE),
        Row("uncertainty_coef", (0.0, 2.0), pays_otherwise, ONCE | cautious),
    ]


def of_small_networks(section: str, name: str) -> list[Row]:
    """Keys of an optimizer, but without the layers that language models freeze."""
    rows = optimizer(section, name, ONCE | {"hidden_size": 72, "reward_model.hidden_size": 72})
    return [replace(row, given={k: v for k, v in row.given.items() if k != "frozen_layers"}) for row in rows]


def written(outcome: Outcome, name: str) -> dict[str, torch.Tensor]:
    """The tensors of one of the agent's networks."""
    return load_file(outcome.directory / "model" / f"{name}.safetensors")


def said(outcome: Outcome) -> list[list[int]]:
    """Ranks of the clips of every comparison."""
    return [row["ranks"] for row in outcome.lines("comparisons.jsonl")]


def differs(metric: str, *, first_alike: bool = False) -> Effect:
    """The metric is another one in the last step."""

    def effect(a: Outcome, b: Outcome) -> None:
        assert a.metrics[-1][metric] != b.metrics[-1][metric]
        assert not first_alike or a.metrics[0][metric] == b.metrics[0][metric]

    return effect


def acts_there(a: Outcome, b: Outcome) -> None:
    assert [written(outcome, "scale")["mean"].shape for outcome in (a, b)] == [(3,), (4,)]
    assert "log_std" in written(a, "policy")
    assert "logits.0.weight" in written(b, "policy")


def asks_nobody(a: Outcome, b: Outcome) -> None:
    assert a.metrics[-1]["labels/asked"] == 10
    assert not [name for row in b.metrics for name in row if name.startswith(("labels/", "reward/"))]
    assert [(outcome.directory / "model" / "reward.safetensors").exists() for outcome in (a, b)] == [True, False]


def takes_steps(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        each = outcome.recipe.num_environments * outcome.recipe.steps_per_rollout
        assert outcome.column("agent/steps") == [each * (step + 1) for step in range(outcome.recipe.steps)]
    assert a.column("agent/steps") != b.column("agent/steps")


def updates_so_often(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        count = outcome.recipe.steps * outcome.recipe.epochs * outcome.recipe.minibatches
        assert {name: len(outcome.updates[name]) for name in ("policy", "value")} == {"policy": count, "value": count}


def has_this_shape(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        width, layers = outcome.recipe.hidden_size, outcome.recipe.layers
        for name, last in (("policy", 1), ("value", 1)):
            weights = [tensor for key, tensor in written(outcome, name).items() if key.endswith("weight")]
            assert [len(weight) for weight in weights] == [width] * layers + [last]


def clips(name: str) -> Effect:
    """The first value clips what the second leaves free."""

    def effect(a: Outcome, b: Outcome) -> None:
        assert a.metrics[0][f"{name}/clip_fraction"] > 0
        assert b.metrics[0][f"{name}/clip_fraction"] == 0

    return effect


def evaluates(a: Outcome, b: Outcome) -> None:
    """Every so many steps from the first on, and after the last."""
    assert [value is not None for value in a.column("agent/return")] == [True] * 4
    assert [value is not None for value in b.column("agent/return")] == [True, False, True, True]


def measures_again(a: Outcome, b: Outcome) -> None:
    assert a.column("agent/return") == b.column("agent/return")
    assert a.report["return"] != b.report["return"]
    assert a.report["return_low"] is None
    assert b.report["return_low"] < b.report["return_high"]


def asks(counts: list[list[int | None]]) -> Effect:
    """So many until each step."""

    def effect(a: Outcome, b: Outcome) -> None:
        assert [outcome.column("labels/asked") for outcome in (a, b)] == counts

    return effect


def answers_otherwise(a: Outcome, b: Outcome) -> None:
    """In the first round, in which both were asked the same."""
    first = a.recipe.labels.budget // a.recipe.steps
    assert said(a)[:first] != said(b)[:first]


def says_the_opposite(a: Outcome, b: Outcome) -> None:
    assert said(a) == [ranks[::-1] for ranks in said(b)]
    assert a.report["ties"] == 0


def calls_more_equal(a: Outcome, b: Outcome) -> None:
    assert a.report["ties"] == 0 < b.report["ties"]


def chooses_what_is_disputed(a: Outcome, b: Outcome) -> None:
    """Once the networks have learned something."""
    first, second = (outcome.column("labels/disagreement") for outcome in (a, b))
    assert first[0] == second[0]
    assert (first[1] or 0.0) < (second[1] or 0.0)


def has_so_many_members(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        assert {len(tensor) for tensor in written(outcome, "reward").values()} == {outcome.recipe.reward_model.members}


def has_this_reward_shape(a: Outcome, b: Outcome) -> None:
    for outcome in (a, b):
        settings = outcome.recipe.reward_model
        biases = [tensor.shape[2] for key, tensor in written(outcome, "reward").items() if key.startswith("biases")]
        assert biases == [settings.hidden_size] * settings.layers + [1]


def learns_rewards_so_often(a: Outcome, b: Outcome) -> None:
    assert [len(outcome.updates["reward"]) for outcome in (a, b)] == [4, 6]


def pays_otherwise(a: Outcome, b: Outcome) -> None:
    """The same networks, and another reward."""
    for key, tensor in written(a, "reward").items():
        assert torch.equal(tensor, written(b, "reward")[key])
    assert a.metrics[0]["value/error"] != b.metrics[0]["value/error"]


def clip_rankings(directory: Path) -> str:
    """What somebody says of every comparison that the run of `BASE` asks for; it is asked round by round."""
    if find_spec("gymnasium") is None:
        return ""
    recipe = parse_recipe(AgentRecipe, BASE | {"labels": BASE["labels"] | {"teacher": "people"}})
    said = directory / "rankings.jsonl"
    for waited in range(BASE["steps"] + 1):
        with suppress(LabelsNeededError):
            train(recipe, Run.open(directory, recipe, resume=waited > 0))
        lines = (pair.model_dump() | {"ranks": [1, 2], "labeler": "ann"} for pair in read_pairs(directory))
        said.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return said.read_text(encoding="utf-8")
