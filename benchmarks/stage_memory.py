"""What PPO needs beside supervised fine-tuning: the same model, sequences and batch; adapters, and frozen layers.

    python benchmarks/stage_memory.py [--ways adapter frozen] [--precisions bf16 fp32] [--out runs/stage-memory]

Both learn from the same number of prompts and responses of the same lengths, PPO from those that it draws (hot, so that
nobody stops early). Every stage is run twice, in a process of its own: once for the memory that the process had at its
peak, and once followed by torch's profiler, for what its allocator gave out. The reward model is made first, and is not
counted.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import work
from peak import peak_mb

from palate import recipe as recipes
from palate.disk import json_text
from palate.recipe import parse_recipe
from palate.records import Demonstration, Prompt, Ranking, Response
from palate.run.directory import Run

SEQUENCES, PROMPT, RESPONSE, STEPS = 8, 80, 48, 2
"""Of the embedded model's tokens: a word is one, its template has seven, and a response ends with one."""
WAYS: dict[str, dict[str, Any]] = {
    "adapter": {"adapter": {"rank": 16}},
    "frozen": {"frozen_layers": 20},
    "both": {"adapter": {"rank": 16}, "frozen_layers": 20},
}


def main() -> None:
    """Every way in every precision, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("runs/stage-memory"))
    parser.add_argument("--one", nargs=3, metavar=("STAGE", "RECIPE", "HOW"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json_text(measured(*arguments.one)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        write_data(Path(directory))
        for way in arguments.ways:
            for precision in arguments.precisions:
                found = compare(Path(directory), arguments.model, way, precision)
                (arguments.out / f"{way}-{precision}.json").write_text(json_text(found, indent=1) + "\n")
                print(row(way, precision, found), flush=True)


def row(way: str, precision: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [way, precision]
    for how in ("allocated", "resident"):
        ours, theirs = (found[f"{stage} {how}"] for stage in ("ppo", "sft"))
        cells += [f"{theirs / 1024:.2f}", f"{ours / 1024:.2f}", f"{ours / theirs:.2f}"]
    return f"| {' | '.join(cells)} |"


def write_data(directory: Path) -> None:
    """Prompts, demonstrations and rankings, a few of them to validate on."""
    drawn = random.Random(0)

    def text(count: int) -> str:
        return " ".join(drawn.choice(work.WORDS) for _ in range(count))

    prompts = [Prompt.from_text(text(PROMPT - 7)) for _ in range(STEPS * SEQUENCES + 8)]
    records: dict[str, list[Any]] = {"prompts": list(prompts), "demonstrations": [], "rankings": []}
    for prompt in prompts:
        responses = tuple(Response(text=text(RESPONSE - 1)) for _ in range(2))
        records["demonstrations"].append(Demonstration(prompt=prompt, response=responses[0]))
        records["rankings"].append(Ranking(prompt=prompt, responses=responses, ranks=(1, 2), labeler="ann"))
    records["rankings"] = records["rankings"][:12]
    for name, rows in records.items():
        (directory / f"{name}.jsonl").write_text("".join(each.to_json() + "\n" for each in rows), encoding="utf-8")


def compare(directory: Path, model: str, way: str, precision: str) -> dict[str, Any]:
    """MiB of both stages, by stage and how it was measured."""
    common = {"model": model, "precision": precision, "microbatch_tokens": 2 * SEQUENCES * (PROMPT + RESPONSE)}
    common |= WAYS[way]
    reward = directory / f"{way}-{precision}" / "reward"
    data = {name: {"path": str(directory / f"{name}.jsonl")} for name in ("prompts", "demonstrations", "rankings")}
    trees: dict[str, dict[str, Any]] = {
        "reward": common | {"data": data["rankings"], "batch_responses": 4},
        "sft": common | {"data": data["demonstrations"], "batch_size": SEQUENCES},
        "ppo": common
        | {
            "prompts": data["prompts"],
            "rewards": [{"model": str(reward)}],
            "steps": STEPS,
            "prompts_per_step": SEQUENCES,
            "responses_per_prompt": 1,
            "sampling": {"max_new_tokens": RESPONSE, "temperature": 3.0, "num_slots": SEQUENCES},
        },
    }
    found: dict[str, Any] = {}
    for stage, how in (("reward", "resident"), *((s, h) for s in ("sft", "ppo") for h in ("resident", "allocated"))):
        path = reward.parent / f"{stage}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(trees[stage]))
        command = [sys.executable, __file__, "--one", stage, str(path), how]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found |= {f"{stage} {how}": value for value in [json.loads(answer.splitlines()[-1])["mb"]]}
    return found


def measured(stage: str, path: str, how: str) -> dict[str, float]:
    """Run one stage here; what it needed at its peak in MiB."""
    names = {"sft": "SFTRecipe", "reward": "RewardRecipe", "ppo": "PPORecipe"}
    recipe = parse_recipe(getattr(recipes, names[stage]), json.loads(Path(path).read_text()))
    train = import_module("palate.stages." + ("reinforcement.ppo" if stage == "ppo" else stage)).train
    out = Path(path).parent / (stage if stage == "reward" else f"{stage}-{how}")
    run = Run.open(out, recipe)
    if how == "resident":
        train(recipe, run)
        return {"mb": peak_mb()}
    return {"mb": followed(lambda: train(recipe, run)) / 2**20}


def followed(compute: Callable[[], object]) -> int:
    """The most bytes that torch's allocator had given out at any time while this was computed."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        compute()
    assert watched.profiler is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


if __name__ == "__main__":
    main()
