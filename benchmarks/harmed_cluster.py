"""PPO on two machines with a vLLM engine, harmed in each way once, beside the same run that nobody harms.

    python benchmarks/harmed_cluster.py --engine-python /opt/vllm/bin/python --out runs/harmed      as root, on Linux

The machines are network namespaces with a Ray node each. On the first `palate cluster` places two trainers of PPO with
adapters on SmolLM2-135M and one engine. In the second run a trainer gets SIGKILL after step 2, vLLM after step 4, and
after step 6 the head's cable is cut for twenty seconds (`--every 1`: after 1, 2 and 3). Printed: what the command said,
how long each harm took until the next step was made, and how far the two runs are apart: adapters, responses, metrics.
Some 7 GB, some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w
from cut_cable import ADDRESSES, CABLE, HOSTS, cut_for, hosts
from killed import trainer
from safetensors.torch import load_file

from palate.demo.prompts import demo_prompts

PORT = 6379
MARK = "PALATE_HARMED"
"""Of the environment of everything that a run starts: its directory."""
LONGEST = 900.0
"""Seconds that a step may take before the run is given up."""


def tree(prompts: Path, steps: int) -> dict[str, Any]:
    """Small steps of a real model; a checkpoint after each."""
    return {
        "model": "smollm2-135m",
        "value_model": "smollm2-135m",
        "precision": "fp32",
        "adapter": {"rank": 8},
        "prompts": {"path": str(prompts)},
        "rewards": [{"function": "palate.simulated.tastes:sunny_and_to_the_point"}],
        "prompts_per_step": 4,
        "responses_per_prompt": 2,
        "minibatches": 2,
        "steps": steps,
        "checkpoint_every": 1,
        "sampling": {"temperature": 0.7, "max_new_tokens": 24, "num_slots": 8},
        "optimizer": {"learning_rate": 2e-4},
        "value_optimizer": {"learning_rate": 2e-4},
        "cluster": {"trainers": 2, "engines": 1, "cpus": 1, "restarts": 3},
    }


def on(number: int, root: Path, command: Sequence[str]) -> list[str]:
    """A command on one of the machines, which has a directory for Ray of its own."""
    own = root / f"ray-{number}"
    own.mkdir(exist_ok=True)
    script = f'mount --bind {own} /tmp/ray && exec "$@"'
    return ["ip", "netns", "exec", HOSTS[number], "sh", "-c", script, "sh", *command]


@contextmanager
def nodes(root: Path, environment: dict[str, str]) -> Iterator[None]:
    """Ray on both, the head on the first; three places in all."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory", str(80 * 2**20)]
    where = [["--head", f"--port={PORT}", "--include-dashboard=false"], [f"--address={ADDRESSES[0]}:{PORT}"]]
    started = []
    try:
        for number, cores in ((0, 2), (1, 1)):
            more = [f"--node-ip-address={ADDRESSES[number]}", f"--num-cpus={cores}", *where[number]]
            with (root / f"ray-{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        on(number, root, [*ray, *more]), stdout=log, stderr=log, env=environment, start_new_session=True
                    )
                )
            time.sleep(20)
        yield
    finally:
        for process in reversed(started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def vllm(out: Path) -> int | None:
    """The server that draws for the run in that directory."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            told = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"vllm.entrypoints.openai.api_server" in words[:4] and f"{MARK}={out}".encode() in told:
            return int(process.name)
    return None


def steps_of(out: Path) -> list[dict[str, float]]:
    """The rows that are logged."""
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def harms(out: Path, every: int, cut: float) -> dict[int, tuple[str, Callable[[], object]]]:
    """What is done, after which step."""

    def kill(find: Callable[[], int | None]) -> None:
        pid = find()
        assert pid is not None, "nobody is there to be killed"
        os.kill(pid, signal.SIGKILL)

    return {
        every: ("trainer 1 killed", lambda: kill(lambda: trainer(out, 1))),
        2 * every: ("vLLM killed", lambda: kill(lambda: vllm(out))),
        3 * every: (f"the head's cable cut for {cut:g} s", lambda: cut_for(cut)),
    }


def run(
    root: Path,
    out: Path,
    recipe: Path,
    python: str,
    environment: dict[str, str],
    waiting: dict[int, tuple[str, Callable[[], object]]],
) -> int:
    """`palate cluster`, with harm after some of its steps; its status."""
    command = [sys.executable, "-m", "palate", "cluster", str(recipe), "--stage", "ppo", "--out", str(out)]
    command += ["--address", f"{ADDRESSES[0]}:{PORT}", "--engine-python", python]
    begun = time.monotonic()
    with (root / f"{out.name}.log").open("wb") as log:
        process = subprocess.Popen(
            on(0, root, command), stdout=log, stderr=log, env=environment | {MARK: str(out)}, start_new_session=True
        )
        try:
            seen, since, harmed = 0, time.monotonic(), ""
            while process.poll() is None and time.monotonic() - since < LONGEST:
                time.sleep(0.2)
                if len(steps_of(out)) <= seen:  # fewer than before, when it has gone back to a checkpoint
                    continue
                now = time.monotonic()
                told = f", {now - since:.0f} s since {harmed}" if harmed else ""
                seen, since, harmed = seen + 1, now, ""
                print(f"  step {seen} after {now - begun:.0f} s{told}", flush=True)
                if seen in waiting:
                    harmed, harm = waiting.pop(seen)
                    harm()
            if process.poll() is None:
                os.kill(process.pid, signal.SIGINT)
            return process.wait(120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def apart(one: Path, other: Path) -> bool:
    """Print how far two runs are from each other; whether they have the same bits."""
    (mine,), (theirs,) = ([*each.glob("model/*.safetensors")] for each in (one, other))
    first, second = load_file(mine), load_file(theirs)
    largest = max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
    moved = max(float(weight.float().abs().max()) for name, weight in first.items() if "lora_B" in name)
    same = all(bool((second[name] == weight).all()) for name, weight in first.items())
    print(
        "the same bits" if same else f"OTHER BITS: adapters differ by {largest:.1e} at most (they learned {moved:.1e})"
    )
    texts = [[json.loads(line).get("response") for line in (each / "samples.jsonl").open()] for each in (one, other)]
    print(f"responses: {sum(a == b for a, b in zip(*texts, strict=False))} of {len(texts[0])} the same")
    for name in ("objective/score", "objective/kl", "sampler/gap", "sampler/retries"):
        told = [" ".join(f"{row.get(name, float('nan')):.3g}" for row in steps_of(each)) for each in (one, other)]
        print(f"{name}: {told[0]}  |  {told[1]}")
    return same


def main() -> None:
    """Both runs, and what lies between them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-python", required=True, help="a Python that has vLLM 0.32")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=2, metavar="STEPS", help="between two harms; default: %(default)s")
    parser.add_argument("--cut", type=float, default=20.0, help="seconds")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end Ray
    root = args.out.absolute()
    root.mkdir(parents=True, exist_ok=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    recipe, prompts = root / "ppo.toml", root / "prompts.jsonl"
    prompts.write_text("".join(prompt.to_json() + "\n" for prompt in demo_prompts(held_out=False)[:24]))
    recipe.write_text(tomli_w.dumps(tree(prompts, 4 * args.every)))
    environment = os.environ | {
        "RAY_worker_niceness": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "GLOO_SOCKET_IFNAME": CABLE,
        "OMP_NUM_THREADS": "1",
        "PALATE_PEER_TIMEOUT": "300",
    }
    with hosts(), nodes(root, environment):
        for name in ("unharmed", "harmed"):
            waiting = harms(root / name, args.every, args.cut) if name == "harmed" else {}
            shutil.rmtree(root / name, ignore_errors=True)
            print(f"{name}:", flush=True)
            status = run(root, root / name, recipe, args.engine_python, environment, waiting)
            said = (root / f"{name}.log").read_text(errors="replace").splitlines()
            told = [line for line in said if "palate:" in line or "started again" in line or "going on" in line]
            print(f"  status {status}", *told, sep="\n  ", flush=True)
            if status:
                raise SystemExit(1)
    raise SystemExit(0 if apart(root / "unharmed", root / "harmed") else 1)


if __name__ == "__main__":
    main()
