"""Palate's own stages, unchanged: a run whose tracker is the gate does one step at a time."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import work
from sides.gate import Gate

import palate
from palate.lm.sources.zoo import load_language_model
from palate.recipe import DPORecipe, PPORecipe, ReinforceRecipe, RewardRecipe, Sampling, SFTRecipe, parse_recipe
from palate.records import Message, Prompt
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages import dpo, reward, sft
from palate.stages.reinforcement import ppo, reinforce

ENDLESS = 10**6
OPTIMIZER = {
    "learning_rate": work.LEARNING_RATE,
    "schedule": "constant",
    "warmup": 0.0,
    "beta1": work.BETAS[0],
    "beta2": work.BETAS[1],
    "epsilon": work.EPSILON,
}
HELD_OUT = {"tag": "held", "value": "yes"}


class Turns:
    """A tracker that lets a stage do one step at a time; ``extra`` seconds are added to each."""

    def __init__(self, gate: Gate, **facts: Any) -> None:
        self.gate, self.facts, self.extra = gate, facts, 0.0
        gate.begin()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is over: answer, and wait before the next."""
        self.gate.end(**self.facts, logged=dict(metrics), extra=self.extra)
        self.gate.begin()

    def text(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Samples; not read here."""

    def close(self) -> None:
        """Never reached."""


def main() -> None:
    """One task, until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=[*TASKS])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rows", choices=[*work.SIZES], default="short")
    parser.add_argument("--adapter", type=int, default=0, help="the rank; 0: the weights learn")
    arguments = parser.parse_args()
    arguments.sizes = work.SIZES[arguments.rows]
    gate = Gate(palate=palate.__version__, torch=torch.__version__)
    TASKS[arguments.task](arguments, gate)


def run_stage(stage: Any, kind: type, tree: dict[str, Any], arguments: argparse.Namespace, turns: Turns) -> None:
    """A stage in a directory that is thrown away."""
    usual = {"precision": arguments.precision, "checkpoint_every": ENDLESS, "max_length": work.LONGEST}
    settings: dict[str, Any] = usual | tree
    if arguments.adapter:
        settings["adapter"] = {"rank": arguments.adapter, "alpha": 2.0 * arguments.adapter}
    recipe = parse_recipe(kind, settings)
    with tempfile.TemporaryDirectory() as directory:
        stage.train(recipe, Run.open(Path(directory) / "run", recipe, trackers=[turns]))


def sampling(arguments: argparse.Namespace, gate: Gate) -> None:
    """The local engine, as the stages call it."""
    loaded = load_language_model(str(arguments.work / "endless"), precision=arguments.precision)
    engine = LocalEngine(loaded.model, loaded.chat)
    rows = work.read(arguments.work, "prompts.jsonl")
    prompts = [Prompt(messages=(Message(role="user", content=row["prompt"]),)) for row in rows]
    settings = Sampling(temperature=1.0, max_new_tokens=arguments.sizes.new)
    for number in itertools.count():
        gate.begin()
        rollout = engine.generate(prompts, settings, num_responses=work.SAMPLES_EACH, key=(number,))
        lengths = rollout.sequences.prompt_lengths[:: work.SAMPLES_EACH]
        gate.end(tokens=int(rollout.sequences.mask.sum()), prompt_tokens=int(lengths.sum()))


def reinforcement(arguments: argparse.Namespace, stage: Any, kind: type, *, frozen: int = 0, **more: Any) -> None:
    """Eight prompts, four responses each; in a pass at least two prompts with theirs, as in the peer's microbatches."""
    gate, sizes = more.pop("gate"), arguments.sizes
    tree = {
        "model": str(arguments.work / "endless"),
        "frozen_layers": frozen,
        "prompts": {"path": str(arguments.work / "rl_prompts.jsonl")},
        "rewards": [{"function": "work:reward"}],
        "sampling": {"temperature": 1.0, "max_new_tokens": arguments.sizes.new},
        "steps": ENDLESS,
        "prompts_per_step": work.RL_PROMPTS,
        "responses_per_prompt": work.RL_SAMPLES,
        "kl_coef": work.KL_COEF,
        "microbatch_tokens": max(1024, 2 * (sizes.prompt + work.RL_SAMPLES * sizes.new)),
        "optimizer": OPTIMIZER,
    }
    facts = {"tokens": work.RL_PROMPTS * work.RL_SAMPLES * arguments.sizes.new}
    run_stage(stage, kind, tree | more, arguments, Turns(gate, **facts))


def rloo(arguments: argparse.Namespace, gate: Gate, frozen: int = 0) -> None:
    """One update per rollout."""
    reinforcement(arguments, reinforce, ReinforceRecipe, frozen=frozen, gate=gate)


def proximal(arguments: argparse.Namespace, gate: Gate, frozen: int = 0) -> None:
    """One update per rollout, and a value model of the policy's size that learns as well."""
    value = {"value_model": str(arguments.work / "reward"), "value_optimizer": OPTIMIZER}
    reinforcement(arguments, ppo, PPORecipe, frozen=frozen, gate=gate, **value)


def frozen_layers(arguments: argparse.Namespace) -> int:
    """The lower two thirds."""
    config = json.loads((arguments.work / "endless" / "config.json").read_text(encoding="utf-8"))
    return work.frozen(config["num_hidden_layers"])


def rankings(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """Eight of them in every optimizer step."""
    return {
        "data": {"path": str(arguments.work / f"rankings-{size}.jsonl"), "tags": ["held"]},
        "holdout": HELD_OUT,
        "epochs": 1000,
        "batch_responses": work.COMPARISONS * size,
        "optimizer": OPTIMIZER,
    }


def reward_model(arguments: argparse.Namespace, gate: Gate, size: int) -> None:
    """Every response once, whatever the number of pairs."""
    tree = rankings(arguments, size) | {"model": str(arguments.work / "reward")}
    run_stage(reward, RewardRecipe, tree, arguments, Turns(gate))


def preferences(arguments: argparse.Namespace, gate: Gate) -> None:
    """The reference is computed once for all epochs; here its time is added to every step, as in a single pass."""
    turns = Turns(gate)
    computed = dpo.response_logprobs

    def timed(*args: Any, **kwargs: Any) -> Any:
        computed(*args, **kwargs)  # warm, as the steps are when they are counted
        start = time.perf_counter()
        out = computed(*args, **kwargs)
        turns.extra = max(turns.extra, time.perf_counter() - start)  # the larger set is the training set
        return out

    dpo.response_logprobs = timed
    tree = rankings(arguments, 2) | {
        "model": str(arguments.work / "model"),
        "beta": work.DPO_BETA,
        "temperature": 1.0,
    }
    run_stage(dpo, DPORecipe, tree, arguments, turns)


def supervised(arguments: argparse.Namespace, gate: Gate) -> None:
    """Sixteen demonstrations."""
    tree = {
        "model": str(arguments.work / "model"),
        "data": {"path": str(arguments.work / "demonstrations.jsonl"), "tags": ["held"]},
        "holdout": HELD_OUT,
        "epochs": 1000,
        "batch_size": work.DEMONSTRATIONS,
        "optimizer": OPTIMIZER,
    }
    run_stage(sft, SFTRecipe, tree, arguments, Turns(gate))


TASKS = {
    "sampling": sampling,
    "rloo": rloo,
    "rloo-frozen": lambda arguments, gate: rloo(arguments, gate, frozen=frozen_layers(arguments)),
    "ppo": proximal,
    "ppo-frozen": lambda arguments, gate: proximal(arguments, gate, frozen=frozen_layers(arguments)),
    "reward-2": lambda arguments, gate: reward_model(arguments, gate, 2),
    "reward-4": lambda arguments, gate: reward_model(arguments, gate, 4),
    "dpo": preferences,
    "sft": supervised,
}

if __name__ == "__main__":
    main()
