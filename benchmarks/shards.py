"""Two trainer processes of one thread, with whole weights and with sharded ones, beside one process of two threads.

    python benchmarks/shards.py sft --data demonstrations.jsonl --out /tmp/shards
    python benchmarks/shards.py reinforce --data prompts.jsonl --out /tmp/shards

For each arrangement: seconds a step, the share of them that a process spends in or before messages to the others, and
what a process has in memory at the end of a step, weights, gradients and moments by storage, and at its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

CASES = {"one process, two threads": (1, 2, "none"), "two, whole": (2, 1, "none"), "two, sharded": (2, 1, "weights")}
TREES: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 16, "max_length": 256, "checkpoint_every": 1000},
    "reinforce": {
        "rewards": [{"length": 30.0}],
        "prompts_per_step": 8,
        "responses_per_prompt": 2,
        "sampling": {"max_new_tokens": 32},
        "checkpoint_every": 1000,
    },
}
MESSAGES = (
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "all_reduce",
    "all_gather_object",
    "broadcast_object_list",
)


def main() -> None:
    """Every arrangement, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=TREES)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--frozen-layers", type=int, default=0)
    parser.add_argument("--work", default="", help="used by the script itself")
    asked = parser.parse_args()
    if asked.work:
        work(asked, *CASES[asked.work])
        return
    for case, (processes, threads, _) in CASES.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_PORT": str(port)}
        shared |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, *sys.argv[1:], "--work", case]
        members = [
            subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(processes)
        ]
        ended = [member.wait() for member in members]
        assert not any(ended)
        for path in sorted(asked.out.glob(f"{asked.stage} {case} *.json")):
            print(path.stem, json.loads(path.read_text()), flush=True)


def work(asked: argparse.Namespace, processes: int, threads: int, shard: str) -> None:
    """One process of an arrangement."""
    import torch
    import torch.distributed as dist

    from palate import recipe as recipes
    from palate.cluster.gang import joined
    from palate.commands import STAGES
    from palate.lm.optim import Optimizer
    from palate.recipe import parse_recipe
    from palate.run.directory import Run
    from palate.stages import common

    torch.set_num_threads(threads)
    stage = next(each for each in STAGES if each.name == asked.stage)
    tree = TREES[asked.stage] | {"model": asked.model, "precision": "fp32", "frozen_layers": asked.frozen_layers}
    tree |= {"cluster": {"shard": shard}}
    if asked.stage == "sft":
        tree |= {"data": {"path": asked.data, "limit": 16 * asked.steps + 20}, "holdout": {"fraction": 0.1}}
    else:
        tree |= {"prompts": {"path": asked.data}, "steps": asked.steps}
    recipe: Any = parse_recipe(getattr(recipes, stage.recipe), tree)
    ends, waited, held = [], [0.0], [0]

    def clocked(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                waited[0] += time.perf_counter() - begun

        return timed

    for name in MESSAGES:
        setattr(dist, name, clocked(getattr(dist, name)))
    logs, takes_step = Run.log, Optimizer.step

    def logged(self: Run, step: int, metrics: Any) -> None:
        logs(self, step, metrics)
        ends.append((time.perf_counter(), waited[0]))

    def stepped(self: Optimizer, step: int) -> dict[str, float]:
        told = takes_step(self, step)
        known = [each for state in self.adamw.state.values() for each in state.values() if torch.is_tensor(each)]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in known}
        for each in self.own.values():
            storages[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        held[0] = sum(storages.values())
        return told

    Run.log, Optimizer.step = logged, stepped  # type: ignore[method-assign]
    common.stage_report = lambda *_, **__: None  # type: ignore[assignment]
    common.save = lambda *_, **__: None  # type: ignore[assignment]
    out = asked.out / f"{asked.stage} {asked.work}"
    if os.environ["RANK"] == "0":
        shutil.rmtree(out, ignore_errors=True)

    def perform() -> None:
        getattr(import_module(stage.module), stage.function)(recipe, Run.open(out, recipe))

    if processes == 1:
        perform()
    else:
        with joined():
            perform()
    pairs = list(pairwise(ends))
    seconds = [after[0] - before[0] for before, after in pairs]
    share = sum(after[1] - before[1] for before, after in pairs) / sum(seconds)
    told = {
        "seconds a step": round(statistics.median(seconds), 3),
        "from": round(min(seconds), 3),
        "to": round(max(seconds), 3),
        "steps": len(seconds),
        "share in messages": round(share, 3),
        "learned weights and moments, MB": round(held[0] / 1e6, 1),
        "peak of the process, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
    (asked.out / f"{asked.stage} {asked.work} {os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
