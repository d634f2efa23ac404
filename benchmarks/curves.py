"""How cost grows: with sequences, with K, with batch and length, with the model.

    python benchmarks/curves.py [--only sampling rankings memory models] [--out runs/curves]

Every point is a process of its own, so that its peak memory is its own too; the first of its iterations is not counted.
Pictures and figures go to OUT.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
import work

from palate.evals.theme import SERIES
from palate.lm.batch import Sequences
from palate.lm.decoder import Decoder
from palate.lm.model import LanguageModel, ScalarModel
from palate.lm.optim import Optimizer
from palate.lm.zoo import load_language_model, load_scalar_model
from palate.objectives.advantages import gae, whiten
from palate.objectives.losses import policy_loss, ranking_loss, value_loss
from palate.recipe import Optimizer as OptimizerRecipe
from palate.recipe import Sampling
from palate.records import Message, Prompt
from palate.rollout.local import LocalEngine

SIZES: dict[str, dict[str, int]] = {
    "tiny": {},
    "135M": {},
    "270M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 32, "num_attention_heads": 12},
}
CURVES: dict[str, list[tuple[Any, ...]]] = {
    "sampling": [(count,) for count in (16, 32, 64, 128, 256, 512)],
    "rankings": [(size,) for size in (2, 4, 8)],
    "memory": [(count, length) for length in (128, 256, 512) for count in (8, 16, 32)],
    "models": [(name,) for name in SIZES],
}


def main() -> None:
    """All points of the chosen curves, then the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[*CURVES], choices=[*CURVES])
    parser.add_argument("--out", type=Path, default=Path("runs/curves"))
    parser.add_argument("--point", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(arguments.point[0], *map(_number, arguments.point[1:]))))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for curve in arguments.only:
        rows = []
        for point in CURVES[curve]:
            command = [sys.executable, __file__, "--point", curve, *map(str, point)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(answer.splitlines()[-1]))
            print(curve, *point, rows[-1], file=sys.stderr, flush=True)
        (arguments.out / f"{curve}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
        PICTURES[curve](axes, rows)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(arguments.out / f"{curve}.png", dpi=140)
        plt.close(figure)


def _number(text: str) -> Any:
    return int(text) if text.isdigit() else text


def measure(curve: str, *point: Any) -> dict[str, Any]:
    """One point."""
    step, facts = STEPS[curve](*point)
    step()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return facts | {"seconds": median(seconds), "peak_gib": peak}


def prompts(count: int) -> list[Prompt]:
    """Of 45 tokens each."""
    chance = random.Random(0)
    texts = [work.words(work.PROMPT_TOKENS - work.TEMPLATE_TOKENS, chance) for _ in range(count)]
    return [Prompt(messages=(Message(role="user", content=text),)) for text in texts]


def endless(model: LanguageModel, chat: Any) -> LocalEngine:
    """An engine whose responses all become as long as they may."""
    chat.stop_id = -1
    return LocalEngine(model, chat)


def sampling(count: int) -> tuple[Callable[[], None], dict[str, Any]]:
    """48 tokens each, four responses to a prompt, as many side by side as the default says."""
    loaded = load_language_model("smollm2-135m")
    engine, keys = endless(loaded.model, loaded.chat), iter(range(10))

    def step() -> None:
        engine.generate(
            prompts(count // 4),
            Sampling(temperature=1.0, max_new_tokens=work.NEW_TOKENS),
            num_responses=4,
            key=(next(keys),),
        )

    return step, {"sequences": count, "tokens": count * work.NEW_TOKENS}


def rankings(size: int) -> tuple[Callable[[], None], dict[str, Any]]:
    """Eight rankings of K responses of 34 tokens to prompts of 60, one optimizer step."""
    return _reward_step(8, size, 60, 34), {"k": size, "responses": 8 * size, "pairs": 4 * size * (size - 1)}


def memory(count: int, length: int) -> tuple[Callable[[], None], dict[str, Any]]:
    """Pairs with half of each sequence the prompt's."""
    return _reward_step(count // 2, 2, length // 2, length // 2), {"responses": count, "length": length}


def _reward_step(groups: int, size: int, prompt: int, response: int) -> Callable[[], None]:
    model = load_scalar_model("smollm2-135m").model
    optimizer = Optimizer(model, OptimizerRecipe(learning_rate=1e-6), 100, name="reward")
    tokens = torch.randint(20, 1000, (groups, prompt)).tolist()
    group_ids = [group for group in range(groups) for _ in range(size)]
    responses = torch.randint(20, 1000, (groups * size, response)).tolist()
    sequences = Sequences.pack([tokens[group] for group in group_ids], responses, group_ids=group_ids)

    def step() -> None:
        for part in sequences.parts(4096, whole_groups=True):
            ranks = torch.arange(size).repeat(len(part) // size)
            loss, _ = ranking_loss(model.scores(part), ranks, part.group_ids, tie="half", denominator=groups)
            loss.backward()
        optimizer.step(0)

    return step


def models(name: str) -> tuple[Callable[[], None], dict[str, Any]]:
    """A PPO iteration: 8 prompts, 4 responses of 48 tokens, reference, values, one update of both models."""
    (policy, chat), (reference, _), (value_model, _) = (_random(name, kind) for kind in range(3))
    engine, keys = endless(policy, chat), iter(range(10))
    settings = OptimizerRecipe(learning_rate=1e-6)
    optimizers = [Optimizer(each, settings, 100, name="policy") for each in (policy, value_model)]
    sampled = Sampling(temperature=1.0, max_new_tokens=work.NEW_TOKENS)

    def step() -> None:
        rollout = engine.generate(prompts(8), sampled, num_responses=4, key=(next(keys),))
        batch, mask = rollout.sequences, rollout.sequences.mask
        with torch.no_grad():
            before = reference.logprobs(batch, temperature=1.0)
            values = value_model.values(batch)
        rewards = (before - rollout.logprobs) * 0.05
        advantages, returns = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
        new = policy.logprobs(batch, temperature=1.0)
        advantages = whiten(advantages, mask, shift_mean=True)
        loss, _ = policy_loss(new, rollout.logprobs, advantages, mask, clip_range=0.2)
        loss.backward()
        loss, _ = value_loss(value_model.values(batch), values, returns, mask, clip_range_value=0.2)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step(0)

    size = sum(parameter.numel() for parameter in policy.parameters())
    return step, {"model": name, "million_parameters": size / 1e6}


def _random(name: str, kind: int) -> tuple[Any, Any]:
    """Policy, reference and value model; the larger ones have their shapes and random weights."""
    load: Any = (load_language_model, load_language_model, load_scalar_model)[kind]
    loaded = load("tiny" if name == "tiny" else "smollm2-135m")
    if name == "270M":
        config = loaded.model.config
        for key, value in SIZES[name].items():
            setattr(config, key, value)
        config.num_key_value_heads = config.num_attention_heads // 3
        config.head_dim = config.hidden_size // config.num_attention_heads
        shape: Any = (LanguageModel, LanguageModel, ScalarModel)[kind]
        torch.manual_seed(0)
        return shape(config, Decoder(config, loaded.model.model.dtype)), loaded.chat
    return loaded.model, loaded.chat


def _draw_sampling(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.plot([row["sequences"] for row in rows], [1000 * row["seconds"] / row["tokens"] for row in rows], "o-")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("sequences")
    axes.set_ylabel("milliseconds a token")


def _draw_rankings(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.plot([row["responses"] for row in rows], [row["seconds"] for row in rows], "o-", color=SERIES[0])
    for row in rows:
        label = f"K = {row['k']}: {row['pairs']} pairs"
        axes.annotate(label, (row["responses"], row["seconds"]), xytext=(0, -16), textcoords="offset points")
    axes.set_xlabel("responses in 8 rankings")
    axes.set_ylabel("seconds a step")


def _draw_memory(axes: Any, rows: list[dict[str, Any]]) -> None:
    for color, length in zip(SERIES, sorted({row["length"] for row in rows}), strict=False):
        some = [row for row in rows if row["length"] == length]
        axes.plot(
            [row["responses"] for row in some],
            [row["peak_gib"] for row in some],
            "o-",
            color=color,
            label=f"{length} tokens",
        )
    axes.legend(frameon=False)
    axes.set_xlabel("responses in a step, prompts shared by two")
    axes.set_ylabel("peak memory, GiB")


def _draw_models(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.plot([row["million_parameters"] for row in rows], [row["seconds"] for row in rows], "o-")
    axes.set_xlabel("million parameters")
    axes.set_ylabel("seconds a PPO iteration")


STEPS: dict[str, Any] = {"sampling": sampling, "rankings": rankings, "memory": memory, "models": models}
PICTURES: dict[str, Any] = {
    "sampling": _draw_sampling,
    "rankings": _draw_rankings,
    "memory": _draw_memory,
    "models": _draw_models,
}

if __name__ == "__main__":
    main()
