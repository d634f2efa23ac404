"""Which rank, and which layers: fine-tuning by adapters of several, on one small task, by held-out perplexity.

    python benchmarks/rank_and_layers.py DEMO [DEMO ...] [--out runs/rank-and-layers]

DEMOs are finished demonstrations (`palate demo`), one a seed. What is learned from are the demonstrations of one; what
is measured on are those of the others, which its labelers never wrote. Everything but rank and layers is the same: the
model, the order, eight or so steps of 16, a learning rate ten times that of the weights, and a change that is scaled so
that a higher rank learns as fast as a low one. fp32, because a processor computes adapters in fp64 beside bf16.
Runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from palate.recipe import SFTRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages import sft

LAYERS = 30
"""Of SmolLM2-135M."""
LEARNING_RATE = 1e-4
"""Of the weights: the demonstration's."""
VARIANTS: dict[str, tuple[int, int]] = {
    "rank 1, top 4": (1, 4),
    "rank 4, top 4": (4, 4),
    "rank 16, top 4": (16, 4),
    "rank 64, top 4": (64, 4),
    "the weights, top 4": (0, 4),
    "rank 16, top 8": (16, 8),
    "rank 16, top 15": (16, 15),
    "rank 16, all layers": (16, LAYERS),
    "rank 1, all layers": (1, LAYERS),
    "rank 64, all layers": (64, LAYERS),
}
"""Rank, where 0 are the weights themselves, and how many layers learn, from the top."""


def main() -> None:
    """Run what is not there yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", type=Path, nargs="+", metavar="DEMO")
    parser.add_argument("--out", type=Path, default=Path("runs/rank-and-layers"))
    parser.add_argument("--held-out", type=int, default=48, help="demonstrations to measure on; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=[], metavar="NAME", help=", ".join(VARIANTS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = [demo / "demonstrations.jsonl" for demo in arguments.demos]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only or VARIANTS}
    data = [arguments.out / f"data-{seed}.jsonl" for seed in range(len(files))]
    for seed, path in enumerate(data):
        write(path, files[seed], files[:seed] + files[seed + 1 :], arguments.held_out)
    for name in arguments.only or VARIANTS:
        rank, layers = VARIANTS[name]
        for seed, path in enumerate(data):
            found[name].append(measured(arguments.out / f"{seed}-{rank}-{layers}", path, seed, rank, layers))
            print(seed, name, json.dumps(found[name][-1]), flush=True)
    before = [each["perplexity_before"] for each in next(iter(found.values()))]
    print(f"held-out perplexity before: {spread(before)}; {len(files)} seeds, {torch.get_num_threads()} threads")
    for name, runs in found.items():
        print(f"| {name} | {spread([each['perplexity'] for each in runs])} |")


def write(path: Path, learned: Path, others: Sequence[Path], count: int) -> None:
    """One file of both, those to measure on tagged; an answer that is learned from is not measured on."""
    own = lines(learned)
    known = {text(row) for row in own}
    rows = [row for file in others for row in lines(file) if text(row) not in known][:count]
    for row in rows:
        row["prompt"]["tags"] = {**row["prompt"].get("tags", {}), "held": "yes"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*own, *rows]), encoding="utf-8")


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def text(row: dict[str, Any]) -> str:
    """What is asked, as far as it says whether two rows are of one prompt."""
    return json.dumps(row["prompt"]["messages"])


def measured(out: Path, data: Path, seed: int, rank: int, layers: int) -> dict[str, float]:
    """One run of fine-tuning, unless it is there: perplexities."""
    report, seconds = out / "report.json", 0.0
    if not report.exists():
        tree: dict[str, Any] = {
            "seed": seed,
            "precision": "fp32",
            "data": {"path": str(data)},
            "holdout": {"tag": "held", "value": "yes"},
            "frozen_layers": LAYERS - layers,
            "epochs": 2,
            "optimizer": {"learning_rate": LEARNING_RATE * (10 if rank else 1)},
            "checkpoint_every": 1000,
        }
        if rank:
            # 2 at rank 16, which is what the default gives without stabilising
            tree["adapter"] = {"rank": rank, "alpha": 8.0, "rank_stabilized": True}
        recipe, begun = parse_recipe(SFTRecipe, tree), time.perf_counter()
        sft.train(recipe, Run.open(out, recipe))
        seconds = time.perf_counter() - begun
    told = json.loads(report.read_text(encoding="utf-8"))
    return {key: told[key] for key in ("perplexity_before", "perplexity")} | {"seconds": seconds}


def spread(values: Sequence[float]) -> str:
    """Mean, least and most."""
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
