"""Kill one process of a run at a random moment, as often as asked, and compare what comes out with undisturbed runs.

    python benchmarks/killed.py --times 20                     under torchrun
    python benchmarks/killed.py --times 5 --launcher cluster   under `palate cluster`, on a Ray cluster of this machine

Each stage runs once in two processes without harm. Then, in turn over the stages, it runs again; at a moment that is
drawn uniformly from its duration one of the two processes, also drawn, gets SIGKILL. What must come out: the run ends,
and its model has the same bits. A kill that finds nobody, too early or too late, is drawn again. Moments and processes
follow from `--seed`. Needs only the tiny model; nothing of the network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomli_w

from palate.demo.prompts import demo_prompts
from palate.records import Demonstration, Ranking, Record, Response

ANSWERS = ("It is good.", "It is bad and goes on for rather too long.", "Hm.")


@dataclass(frozen=True)
class Harm:
    """What was done to a run, and what came of it."""

    stage: str
    process: int
    after: float
    steps: int
    restarts: int
    same: bool


def recipes(root: Path) -> dict[str, Path]:
    """A small recipe of each of several stages, with a checkpoint after every second step."""
    prompts = demo_prompts(held_out=False)[:24]

    def write(name: str, records: list[Record]) -> str:
        path = root / name
        path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
        return str(path)

    asked = {"path": write("prompts.jsonl", [*prompts])}
    shown = {
        "path": write(
            "demonstrations.jsonl", [Demonstration(prompt=p, response=Response(text="Yes, it is.")) for p in prompts]
        )
    }
    ranked = {
        "path": write(
            "rankings.jsonl",
            [
                Ranking(prompt=p, responses=tuple(Response(text=t) for t in ANSWERS), ranks=(1, 3, 2), labeler="ann")
                for p in prompts
            ],
        )
    }
    base: dict[str, Any] = {"model": "tiny", "precision": "fp32", "frozen_layers": 1, "checkpoint_every": 2}
    base |= {"optimizer": {"learning_rate": 1e-3}, "cluster": {"trainers": 2}}
    rl = base | {"prompts": asked, "rewards": [{"length": 3.0}], "sampling": {"max_new_tokens": 6}}
    rl |= {"prompts_per_step": 3, "steps": 8}
    trees = {
        "sft": base | {"data": shown, "batch_size": 3},
        "reward": base | {"data": ranked, "batch_responses": 9},
        "dpo": base | {"data": ranked, "batch_responses": 6},
        "reinforce": rl,
        "ppo": rl | {"value_model": "tiny", "epochs": 2, "minibatches": 2},
    }
    found = {}
    for name, tree in trees.items():
        found[name] = root / f"{name}.toml"
        found[name].write_text(tomli_w.dumps(tree), encoding="utf-8")
    return found


def command(launcher: str, stage: str, recipe: Path, out: Path) -> list[str]:
    """What runs a recipe in two processes, which are started again when one of them is lost."""
    if launcher == "cluster":
        return [sys.executable, "-m", "palate", "cluster", str(recipe), "--out", str(out), "--address", "local"]
    options = ["--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--max-restarts=3"]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *options,
        "-m",
        "palate",
        stage,
        str(recipe),
        "--out",
        str(out),
    ]


def trainer(out: Path, rank: int) -> int | None:
    """The process of that rank that works on the run in that directory, if it is there."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            told = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended, or is another user's
            continue
        is_ours = str(out).encode() in words and b"palate" in words and b"torch.distributed.run" not in words
        if is_ours and f"RANK={rank}".encode() in told:
            return int(process.name)
    return None


def bits(out: Path) -> str:
    """Of the model that came out."""
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def harmed(launcher: str, stage: str, recipe: Path, out: Path, rank: int, after: float) -> tuple[bool, int]:
    """Whether the process was there to be killed, and the steps that were logged by then."""
    with (out.parent / f"{out.name}.log").open("wb") as log:
        process = subprocess.Popen(command(launcher, stage, recipe, out), stdout=log, stderr=log)
        begun = time.monotonic()
        while time.monotonic() - begun < after and process.poll() is None:
            time.sleep(0.01)
        pid, steps = trainer(out, rank), 0
        if pid is not None:
            steps = len((out / "metrics.jsonl").read_bytes().splitlines()) if (out / "metrics.jsonl").exists() else 0
            os.kill(pid, signal.SIGKILL)
        status = process.wait()
    if status:
        print((out.parent / f"{out.name}.log").read_text()[-2000:])
        raise SystemExit(f"{stage}, process {rank} killed after {after:.2f} s: status {status}")
    return pid is not None, steps


def main() -> None:
    """Run them all; one line for each kill, and a table of the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launcher", choices=("torchrun", "cluster"), default="torchrun")
    parser.add_argument("--stages", nargs="+", help="some of them")
    args = parser.parse_args()
    drawn, harms = random.Random(args.seed), list[Harm]()
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory(prefix="palate-killed-") as directory:
        root = Path(directory)
        found = recipes(root)
        chosen = args.stages or list(found)
        unharmed: dict[str, tuple[str, float, float]] = {}
        for stage in chosen:
            out, begun = root / f"{stage}-unharmed", time.monotonic()
            subprocess.run(command(args.launcher, stage, found[stage], out), check=True, capture_output=True)
            lasted = time.monotonic() - begun
            until = json.loads((out / "report.json").read_text())["seconds"]
            unharmed[stage] = bits(out), max(0.0, lasted - until - 2), lasted
            print(f"{stage}: {lasted:.1f} s without harm, {until:.1f} s of it the run's", flush=True)
        for number in range(args.times):
            stage, rank = chosen[number % len(chosen)], drawn.randrange(2)
            expected, first, last = unharmed[stage]
            was_there, attempt = False, 0
            while not was_there:
                after = drawn.uniform(first, last)
                out = root / f"{stage}-{number}-{attempt}"
                was_there, steps = harmed(args.launcher, stage, found[stage], out, rank, after)
                attempt += 1
            record = json.loads((out / "lineage.json").read_text())
            harm = Harm(stage, rank, after, steps, len(record["resumed"]), bits(out) == expected)
            harms.append(harm)
            print(f"{number + 1:3} {harm}", flush=True)
    print(f"{sum(harm.same for harm in harms)} of {len(harms)} runs ended with the same bits")
    raise SystemExit(0 if all(harm.same for harm in harms) else 1)


if __name__ == "__main__":
    main()
