"""How cost grows: with sequences, with K, with batch and length, with the model.

    python benchmarks/curves.py [--only sampling rankings memory models] [--out runs/curves]

Every point is a process of its own, so that its peak memory is its own too; its first iterations are not counted.
Pictures and figures go to OUT.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import shapes
import work
from peak import peak_mb

from palate.disk import json_text
from palate.evals.theme import SERIES
from palate.lm.sources.zoo import load_language_model, save
from palate.recipe import PPORecipe, RewardRecipe, Sampling, parse_recipe
from palate.records import Prompt
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages import reward
from palate.stages.reinforcement import ppo

SIZES = work.SIZES["short"]
MODELS = ("tiny", "smollm2-135m", "qwen3-0.6b")

STEPS = 4
WARM_UP = 2
"""Training steps of each point that are not counted: after those memory has its size."""

WHOLE = 2**20
"""Tokens in a pass: all of a step."""

CURVES: dict[str, list[tuple[Any, ...]]] = {
    "sampling": [(count,) for count in (16, 32, 64, 128, 256, 512)],
    "rankings": [(size,) for size in (2, 4, 8)],
    "memory": [(count, *rest) for rest in ((64, WHOLE), (256, WHOLE), (256, 1024)) for count in (4, 8, 16)],
    "models": [(name,) for name in MODELS],
}


def main() -> None:
    """All points of the chosen curves, then the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[*CURVES], choices=[*CURVES])
    parser.add_argument("--out", type=Path, default=Path("runs/curves"))
    parser.add_argument("--point", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json_text(measure(arguments.point[0], *map(_number, arguments.point[1:]))))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    for curve in arguments.only:
        rows = []
        for point in CURVES[curve]:
            command = [sys.executable, __file__, "--point", curve, *map(str, point)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(answer.splitlines()[-1]))
            print(curve, *point, rows[-1], file=sys.stderr, flush=True)
        (arguments.out / f"{curve}.json").write_text(json_text(rows, indent=1) + "\n", encoding="utf-8")
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
    with tempfile.TemporaryDirectory() as directory:
        seconds, facts = MEASURED[curve](Path(directory), *point)
    return facts | {"seconds": median(seconds), "peak_gib": peak_mb() / 1024}


class Clock:
    """A tracker that knows how long each step took."""

    def __init__(self) -> None:
        self.last, self.seconds, self.metrics = time.perf_counter(), list[float](), dict[str, float]()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is over."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last, self.metrics = now, dict(metrics)

    def text(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Samples; not read here."""

    def close(self) -> None:
        """Nothing is open."""


def clocked(stage: Any, kind: type, directory: Path, **settings: Any) -> Clock:
    """Run a stage; its first step holds the reading of model and data."""
    recipe = parse_recipe(kind, {"optimizer": {"learning_rate": 1e-6}, "checkpoint_every": 10**6} | settings)
    clock = Clock()
    stage.train(recipe, Run.open(directory / "run", recipe, trackers=[clock]))
    return clock


def prompts(count: int) -> list[str]:
    """Of 45 tokens each with the chat template."""
    chance = random.Random(0)
    return [work.words(SIZES.prompt - work.TEMPLATE_TOKENS, chance) for _ in range(count)]


def sampling(directory: Path, count: int) -> tuple[list[float], dict[str, Any]]:
    """48 tokens each, four responses to a prompt, as many side by side as the default says."""
    loaded = load_language_model("smollm2-135m")
    loaded.chat.stop_id = -1  # every response becomes as long as it may
    engine = LocalEngine(loaded.model, loaded.chat)
    asked = [Prompt.from_text(text) for text in prompts(count // 4)]
    settings = Sampling(temperature=1.0, max_new_tokens=SIZES.new)
    engine.generate(asked[:1], settings, num_responses=4, key=("not counted",))
    start = time.perf_counter()
    engine.generate(asked, settings, num_responses=4, key=("counted",))
    return [time.perf_counter() - start], {"sequences": count, "tokens": count * SIZES.new}


def rankings(directory: Path, size: int) -> tuple[list[float], dict[str, Any]]:
    """Eight rankings of K responses of 34 tokens to prompts of 60, one optimizer step."""
    seconds = reward_steps(directory, 8, size, 60, 34)
    return seconds, {"k": size, "responses": 8 * size, "pairs": 4 * size * (size - 1)}


def memory(directory: Path, count: int, length: int, most: int) -> tuple[list[float], dict[str, Any]]:
    """Pairs with half of each sequence the prompt's, at most so many tokens in a pass."""
    seconds = reward_steps(directory, count // 2, 2, length // 2, length // 2, most)
    return seconds, {"responses": count, "length": length, "most": most}


def reward_steps(directory: Path, groups: int, size: int, prompt: int, response: int, most: int = WHOLE) -> list[float]:
    """The reward stage on rankings of given lengths, one of them held out."""
    chance, rows = random.Random(0), directory / "rankings.jsonl"
    lines = [
        {
            "prompt": work.words(prompt - work.TEMPLATE_TOKENS, chance),
            "responses": [work.words(response - 1, chance) for _ in range(size)],
            "ranks": [*range(1, size + 1)],
            "held": "no" if group else "yes",
        }
        for group in range(groups + 1)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return clocked(
        reward,
        RewardRecipe,
        directory,
        model="smollm2-135m",
        data={"path": str(rows), "tags": ["held"]},
        holdout={"tag": "held", "value": "yes"},
        epochs=STEPS,
        batch_responses=groups * size,
        microbatch_tokens=most,
    ).seconds[WARM_UP:]


def models(directory: Path, name: str) -> tuple[list[float], dict[str, Any]]:
    """A PPO iteration: 8 prompts, 4 responses of 48 tokens, reference, values, one update of both models."""
    loaded, policy = shapes.load(name), directory / "policy"
    save(loaded.model, loaded.chat, policy)
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    texts = directory / "prompts.jsonl"
    texts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts(8)), encoding="utf-8")
    clock = clocked(
        ppo,
        PPORecipe,
        directory,
        model=str(policy),
        value_model=str(policy),
        prompts={"path": str(texts)},
        rewards=[{"function": "work:reward"}],
        sampling={"temperature": 1.0, "max_new_tokens": SIZES.new},
        steps=STEPS,
        prompts_per_step=8,
        responses_per_prompt=4,
        value_optimizer={"learning_rate": 1e-6},
    )
    tokens = 32 * clock.metrics["tokens/response_length"]
    return clock.seconds[WARM_UP:], {"model": name, "million_parameters": size / 1e6, "tokens": tokens}


def _draw_sampling(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.plot([row["sequences"] for row in rows], [1000 * row["seconds"] / row["tokens"] for row in rows], "o-")
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["sequences"] for row in rows], [str(row["sequences"]) for row in rows])
    axes.set_xlabel("sequences")
    axes.set_ylabel("milliseconds a token")


def _draw_rankings(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.plot([row["responses"] for row in rows], [row["seconds"] for row in rows], "o-", color=SERIES[0])
    for row in rows:
        label, place = f"K = {row['k']}: {row['pairs']} pairs", (row["responses"], row["seconds"])
        axes.annotate(label, place, xytext=(8, -12), textcoords="offset points")
    axes.set_xlim(0, 1.4 * rows[-1]["responses"])
    axes.set_xlabel("responses in 8 rankings")
    axes.set_ylabel("seconds a step")


def _draw_memory(axes: Any, rows: list[dict[str, Any]]) -> None:
    for color, (length, most) in zip(SERIES, dict.fromkeys((row["length"], row["most"]) for row in rows), strict=False):
        some = [row for row in rows if (row["length"], row["most"]) == (length, most)]
        axes.plot(
            [row["responses"] for row in some],
            [row["peak_gib"] for row in some],
            "o-",
            color=color,
            label=f"{length} tokens" + ("" if most == WHOLE else f", at most {most:,} in a pass"),
        )
    axes.legend(frameon=False)
    axes.set_xlabel("responses in a step, prompts shared by two")
    axes.set_ylabel("peak memory, GiB")


def _draw_models(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.plot([row["million_parameters"] for row in rows], [row["seconds"] for row in rows], "o-")
    axes.set_xlim(left=0)
    axes.set_xlabel("million parameters")
    axes.set_ylabel("seconds a PPO iteration")


MEASURED: dict[str, Any] = {"sampling": sampling, "rankings": rankings, "memory": memory, "models": models}
PICTURES: dict[str, Any] = {
    "sampling": _draw_sampling,
    "rankings": _draw_rankings,
    "memory": _draw_memory,
    "models": _draw_models,
}

if __name__ == "__main__":
    main()
