"""What `palate cluster --plan` computes for two processes, beside what two processes took.

    python benchmarks/shards.py sft --data demonstrations.jsonl --out /tmp/shards
    python benchmarks/plan_beside_measured.py sft --data demonstrations.jsonl --out /tmp/shards

The first command measures one process of two threads, and two of one thread with whole and with sharded weights. Of it
the second takes one number, the seconds of the one process, which are what two processes compute on the same cores; how
fast bytes go from process to process it measures itself (gloo, over loopback, parts as large as a layer). By what the
plan says must move it computes a step of the other two arrangements, and the share of it that is spent in messages.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from shards import CASES, TREES

from palate import recipe as recipes
from palate.commands import STAGES
from palate.recipe import parse_recipe
from palate.stages.estimate.many_cards import Card, Layout, plan, step_of
from palate.stages.estimate.trial import tell

NUMBERS = 2**22
"""In fp32 of one message: 16 MB, about a layer of the model."""


def main() -> None:
    """A line for each arrangement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=TREES)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--model", default="smollm2-135m")
    asked = parser.parse_args()
    stage = next(each for each in STAGES if each.name == asked.stage)
    tree = TREES[asked.stage] | {"model": asked.model, "precision": "fp32", "frozen_layers": 0}
    if asked.stage == "sft":
        tree |= {"data": {"path": asked.data, "limit": 16 * asked.steps + 20}, "holdout": {"fraction": 0.1}}
    else:
        tree |= {"prompts": {"path": asked.data}, "steps": asked.steps}
    recipe: Any = parse_recipe(getattr(recipes, stage.recipe), tree)
    module = __import__(stage.module, fromlist=["train"])
    with tempfile.TemporaryDirectory() as directory:
        told = tell(module.train, recipe, Path(directory) / "told")
    step = step_of(told.recipe, told.work)
    rates = link()
    print(
        f"bytes a second from process to process: {statistics.median(rates):.3g} ({min(rates):.3g} to {max(rates):.3g})"
    )
    measured = {name: seconds_of(asked.out, asked.stage, name) for name in CASES}
    one, *others = CASES
    whole = measured[one]["seconds a step"]
    line = statistics.median(rates)
    for name in others:
        processes, _, shard = CASES[name]
        layout = Layout(trainers=processes, sharded=shard == "weights")
        found = plan(told.work, step, layout, Card(flops=1, memory=1, bandwidth=1, link=line, network=line, moves=1.0))
        computed = whole + found.seconds["moving"]
        took = measured[name]["seconds a step"]
        print(
            f"{name}: computed {computed:.2f} s a step, took {took:.2f} ({computed / took - 1:+.0%}); in messages "
            f"{found.seconds['moving'] / computed:.0%}, measured {measured[name]['share in messages']:.0%}"
        )


def seconds_of(out: Path, stage: str, name: str) -> dict[str, float]:
    """What the first process wrote down."""
    found: dict[str, float] = json.loads((out / f"{stage} {name} 0.json").read_text())
    return found


def link() -> list[float]:
    """Bytes a second that a process is sent while both gather what is divided, twenty times."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        pipe, sender = context.Pipe(duplex=False)
        members = [context.Process(target=_member, args=(rank, directory, sender)) for rank in range(2)]
        for member in members:
            member.start()
        found: list[float] = pipe.recv()
        for member in members:
            member.join()
    return found


def _member(rank: int, directory: str, sender: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{directory}/store", 2), rank=rank, world_size=2)
    part, whole = torch.ones(NUMBERS // 2), torch.empty(NUMBERS)
    rates = []
    for _ in range(20):
        begun = time.perf_counter()
        dist.all_gather_into_tensor(whole, part)
        rates.append(4 * NUMBERS / 2 / (time.perf_counter() - begun))
    if rank == 0:
        sender.send(rates)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
