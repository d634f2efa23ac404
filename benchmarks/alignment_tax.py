"""What each step costs elsewhere: cards before and after SFT, RL, and RL with the pretraining gradient, over seeds.

    python benchmarks/alignment_tax.py --base smollm2-135m --out /somewhere --seeds 0 1 2 \\
        --run sft=runs/demo-{seed}/sft --run rl=runs/demo-{seed}/ppo --run ptx=runs/ptx-{seed} \\
        --section held_out_text=texts.jsonl:40 --section lambada=lambada.jsonl:100

The cards are those of `palate eval`: SFT beside the base, RL beside SFT, RL with the gradient beside SFT and beside RL.
What a model has answered is not asked again. Questions are the same for all seeds, so that the last table, which has
the mean over seeds, says how much of a difference is the seed's: a t interval over the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from palate.evals.card.paired import holm
from palate.recipe import CardRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages.measuring.card import report_card


def main() -> None:
    """A line for each compared measure of each card, and the means over seeds."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--base", required=True)
    arguments.add_argument("--run", action="append", default=[], metavar="NAME=PATH")
    arguments.add_argument("--section", action="append", default=[], metavar="PROTOCOL=PATH:LIMIT")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    runs = dict(each.split("=", 1) for each in given.run)
    sections = [
        {"protocol": name, "path": place.rpartition(":")[0], "limit": int(place.rpartition(":")[2])}
        for name, place in (each.split("=", 1) for each in given.section)
    ]
    pairs = [("sft", ""), ("rl", "sft"), ("ptx", "sft"), ("ptx", "rl")]
    over_seeds: dict[tuple[str, str], list[float]] = defaultdict(list)
    found = []
    for seed in given.seeds:
        for after, before in pairs:
            tree = {
                "stage": "card",
                "model": runs[after].format(seed=seed),
                "baseline": runs[before].format(seed=seed) if before else given.base,
                "sections": sections,
            }
            out = given.out / f"{seed}-{after}-{before or 'base'}"
            if not (out / "report.json").exists():
                recipe = parse_recipe(CardRecipe, tree)
                report_card(recipe, Run.open(out, recipe))
            for row in json.loads((out / "report.json").read_text(encoding="utf-8"))["rows"]:
                if row.get("p_corrected") is not None:
                    about = (f"{after} beside {before or 'base'}", f"{row['section']} {row['measure']}")
                    over_seeds[about].append(row["difference"])
                    found.append((seed, *about, row))
    corrected = holm([row["p"] for *_, row in found])
    for (seed, pair, measure, row), p in zip(found, corrected, strict=True):
        interval = f"{row['difference']:+.4f} ({row['difference_low']:+.4f} to {row['difference_high']:+.4f})"
        print(f"{seed} | {pair} | {measure} | {row['items']} | {row['before']:.4f} | {interval} | {p:.4f}")
    for (pair, measure), values in over_seeds.items():
        n, mean = len(values), float(np.mean(values))
        half = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")
        print(f"mean of {n} | {pair} | {measure} | {mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})")


if __name__ == "__main__":
    main()
