"""How near the peak of gold would `[overoptimization]` have warned? On runs of `palate overoptimize` that are there.

    python benchmarks/peak_signs.py runs/overoptimize --max-distance 1.7

Each stop at which gold was measured stands for a block of steps: 64 held-out prompts by four responses are as many as
four steps of 16 prompts by four. `held_out` is given gold itself, which no reward model is as good as: what the sign
could say at best. Spread, length and distance are those that the runs logged; of the spread of an ensemble the
variance is not in the log, so that its change alone is shown. Nothing is trained, and nothing is random.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from palate.stages.reinforcement.peak import Block, signs


def main() -> None:
    """A line for each run and sign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory of `palate overoptimize`")
    parser.add_argument("--max-distance", type=float, default=1.7)
    parser.add_argument("--sureness", type=float, default=4.0)
    args = parser.parse_args()
    for run in sorted(args.out.glob("*/seed-*")):
        if (run / "points").exists():
            report(run, args.sureness, args.max_distance)


def report(run: Path, sureness: float, max_distance: float) -> None:
    """What each sign would have said of one run."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    points = {
        int(path.stem.removeprefix("step-")): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((run / "points").glob("step-*.json"))
    }
    gold = {step: float(np.mean(point["judge"])) for step, point in points.items()}
    best = max(gold, key=lambda step: gold[step])
    print(f"{run.parent.name}: gold is highest at step {best} ({gold[best]:.2f}), ends at {gold[max(gold)]:.2f}")
    blocks = blocks_of(rows, points)
    for sign in ("held_out", "distance", "length"):
        told = None
        for number in range(1, len(blocks) + 1):
            found = signs(blocks[:number], sureness=sureness, max_distance=max_distance)
            if sign in found:
                told = blocks[number - 1].step + 1
                break
        if told is None:
            print(f"  {sign}: never")
        else:
            kept = max((step for step in gold if step < told), default=None)
            if sign == "held_out" and kept is not None:
                kept = max((step for step in gold if step < told), key=lambda step: gold[step])
            lost = gold[best] - gold[told]
            of_kept = "" if kept is None else f"; kept: step {kept}, gold {gold[kept]:.2f}"
            print(f"  {sign}: step {told}, gold {gold[told]:.2f}, {lost:.2f} below its highest{of_kept}")
    spread = [row["objective/spread"] for row in rows if "objective/spread" in row]
    if spread:
        print(f"  spread: {np.mean(spread[:4]):.3f} in the first four steps, {np.mean(spread[-4:]):.3f} in the last")


def blocks_of(rows: list[dict[str, float]], points: dict[int, Any]) -> list[Block]:
    """A block for each stop: gold as it was measured there, the rest from the steps that lead to it."""
    found, begin = [], 0
    for step, point in points.items():
        part = rows[begin:step]
        moments = {"held_out": by_prompt(point["judge"]), "score": by_prompt(point["reward"])}
        for name, key in (("kl", "objective/kl"), ("length_correlation", "objective/length_correlation")):
            moments[name] = (float(np.mean([row[key] for row in part])), 0.0)
        moments["length"] = by_prompt(point["words"])
        found.append(Block(step=step - 1, moments=moments))
        begin = step
    return found


def by_prompt(values: list[float]) -> tuple[float, float]:
    """The mean over prompts and its variance."""
    return float(np.mean(values)), float(np.var(values, ddof=1)) / len(values)


if __name__ == "__main__":
    main()
