"""RLOO with a vLLM server beside RLOO with the local sampler: does it learn the same, how far apart, how fast.

Both run from one model with the same prompts, seeds and reward (`sunny_and_to_the_point`); only the sampler differs,
and with it the random numbers. Printed: what each seed's halves scored, the difference over seeds and steps with an
interval, the largest gap between server and trainer, and the tokens a second of either, all else alike.

    palate engine runs/sft/model --dtype float32
    python benchmarks/vllm_beside_local.py --model runs/sft/model --prompts prompts.jsonl --out runs/vllm
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from palate.recipe import ReinforceRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement.reinforce import train

QUANTILE = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57}
"""Student's, 97.5%, by degrees of freedom."""


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--server", default="http://127.0.0.1:8300")
    parser.add_argument("--key-variable", default="PALATE_ENGINE_KEY")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--prompts-per-step", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--frozen-layers", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    args = parser.parse_args()
    common.stage_report = lambda *_, **__: None
    server = {"kind": "vllm", "servers": [args.server], "key_variable": args.key_variable}
    rows: dict[str, list[list[dict[str, float]]]] = {"local": [], "vllm": []}
    for seed in range(args.seeds):
        for name, engine in (("local", {}), ("vllm", server)):
            rows[name].append(learned(args, args.out / f"{name}-{seed}", {"seed": seed, "engine": engine}))
    print(table(rows))


def learned(args: argparse.Namespace, out: Path, changes: dict[str, Any]) -> list[dict[str, float]]:
    """The metrics of a run, which goes on where it was."""
    tree = {
        "model": args.model,
        "prompts": {"path": args.prompts},
        "rewards": [{"function": "palate.simulated.tastes:sunny_and_to_the_point"}],
        "precision": args.precision,
        "frozen_layers": args.frozen_layers,
        "sampling": {"max_new_tokens": args.new_tokens},
        "prompts_per_step": args.prompts_per_step,
        "steps": args.steps,
        "optimizer": {"learning_rate": args.learning_rate},
        **changes,
    }
    recipe = parse_recipe(ReinforceRecipe, tree)
    run = Run.open(out, recipe, resume=(out / "metrics.jsonl").exists())
    if not run.finished:
        train(recipe, run)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def table(rows: dict[str, list[list[dict[str, float]]]]) -> str:
    """In words and figures."""
    steps = len(rows["local"][0])
    halves = {"first half": range(steps // 2), "second half": range(steps // 2, steps)}
    lines = []
    for name, part in halves.items():
        scores = {
            engine: [statistics.mean(run[step]["objective/score"] for step in part) for run in runs]
            for engine, runs in rows.items()
        }
        told = ["  ".join(f"{score:7.3f}" for score in each) for each in scores.values()]
        lines.append(f"score, {name:12s} local {told[0]}   vllm {told[1]}")
        gaps = [one - other for one, other in zip(scores["vllm"], scores["local"], strict=True)]
        lines.append(f"  vllm - local, over seeds: {interval(gaps)}")
    gain = {
        engine: [
            statistics.mean(run[step]["objective/score"] for step in halves["second half"])
            - statistics.mean(run[step]["objective/score"] for step in halves["first half"])
            for run in runs
        ]
        for engine, runs in rows.items()
    }
    lines.append(f"gain from half to half: local {interval(gain['local'])}   vllm {interval(gain['vllm'])}")
    every = [
        one["objective/score"] - other["objective/score"]
        for one_run, other_run in zip(rows["vllm"], rows["local"], strict=True)
        for one, other in zip(one_run, other_run, strict=True)
    ]
    lines.append(f"vllm - local, over {len(every)} pairs of steps with the same prompts: {interval(every)}")
    for engine, runs in rows.items():
        speeds = [row["time/tokens_per_s"] for run in runs for row in run[1:]]
        lines.append(
            f"tokens/s {engine}: median {statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f})"
        )
    told = [row for run in rows["vllm"] for row in run]
    lines.append(
        f"gap: mean {statistics.mean(row['sampler/gap'] for row in told):.2e}, largest "
        f"{max(row['sampler/gap_max'] for row in told):.2e}; "
        f"truncated {max(row['sampler/truncated'] for row in told):.4f}; "
        f"requests made again {sum(row['sampler/retries'] for row in told):.0f}"
    )
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Mean and 95% interval of a mean, by Student's distribution."""
    if len(values) < 2:
        return f"{values[0]:+.3f}"
    half = QUANTILE.get(len(values) - 1, 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.3f} (± {half:.3f})"


if __name__ == "__main__":
    main()
