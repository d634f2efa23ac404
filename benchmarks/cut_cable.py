"""Two machines as network namespaces, one process of a run on each, and the cable between them is cut.

    python benchmarks/cut_cable.py           as root, on Linux with `ip`

Three times the same run under torchrun: without harm; with the cable cut for twenty seconds in its middle, which must
end with the bits of the first; and with the cable cut for longer than PALATE_PEER_TIMEOUT, after which the process that
waits must have said in a line why it ends, and a run that goes on from its checkpoint has these bits too. Needs only
the tiny model; nothing of the network outside.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import tomli_w

from palate.demo.prompts import demo_prompts

HOSTS = ("palate-a", "palate-b")
CABLE = "cable"
"""What each of them calls its end."""
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True)


@contextmanager
def hosts() -> Iterator[None]:
    """Two of them with a cable between."""
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], check=False, stderr=subprocess.DEVNULL)
    try:
        for host in HOSTS:
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("-n", HOSTS[0], "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", HOSTS[1])
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", CABLE)
            ip("-n", host, "link", "set", CABLE, "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host)


def cut_for(seconds: float) -> None:
    """Nothing goes from one to the other; each still reaches itself."""
    ip("-n", HOSTS[0], "link", "set", CABLE, "down")
    time.sleep(seconds)
    ip("-n", HOSTS[0], "link", "set", CABLE, "up")


def started(number: int, recipe: Path, out: Path, patience: int, *more: str) -> subprocess.Popen[str]:
    """torchrun on one of them."""
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:29500"]
    options += [f"--rdzv-conf=is_host={'true' if number == 0 else 'false'}", f"--local-addr={ADDRESSES[number]}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "palate", "reinforce", str(recipe)]
    named = {"GLOO_SOCKET_IFNAME": CABLE, "PALATE_PEER_TIMEOUT": str(patience), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["ip", "netns", "exec", HOSTS[number], *command, "--out", str(out), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | named,
    )


def run(recipe: Path, out: Path, *more: str, cut: float = 0.0, patience: int = 300) -> tuple[list[int], list[str]]:
    """Statuses, and what was said, of a run whose cable is cut for so long after its second step."""
    processes = [started(number, recipe, out, patience, *more) for number in range(2)]
    rows = out / "metrics.jsonl"
    if cut:
        while not (rows.exists() and len(rows.read_bytes().splitlines()) >= 2):
            if any(process.poll() is not None for process in processes):
                break
            time.sleep(0.05)
        cut_for(cut)
    said = [process.communicate()[1] for process in processes]
    lines = [line for text in said for line in text.splitlines() if line.startswith("palate: ")]
    if not lines and any(process.returncode for process in processes):
        print(*(text[-1500:] for text in said), sep="\n")
    return [process.returncode for process in processes], lines


def bits(out: Path) -> str:
    """Of the model that came out."""
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """The three runs, and whether they did what they must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--short", type=float, default=20.0, help="seconds; the run goes on after it")
    parser.add_argument("--patience", type=int, default=15, help="seconds, where the cable is cut for thrice as long")
    args = parser.parse_args()
    with TemporaryDirectory(prefix="palate-cable-") as directory, hosts():
        root = Path(directory)
        prompts, recipe = root / "prompts.jsonl", root / "reinforce.toml"
        prompts.write_text("".join(prompt.to_json() + "\n" for prompt in demo_prompts(held_out=False)[:24]))
        tree = {"model": "tiny", "precision": "fp32", "frozen_layers": 1, "optimizer": {"learning_rate": 1e-3}}
        tree |= {"prompts": {"path": str(prompts)}, "rewards": [{"length": 3.0}], "sampling": {"max_new_tokens": 6}}
        recipe.write_text(tomli_w.dumps(tree | {"prompts_per_step": 3, "steps": args.steps, "checkpoint_every": 2}))
        statuses, said = run(recipe, root / "unharmed")
        print(f"without harm: {statuses} {said}", flush=True)
        begun = time.monotonic()
        statuses, said = run(recipe, root / "short", cut=args.short)
        same = statuses == [0, 0] and bits(root / "short") == bits(root / "unharmed")
        print(f"cut for {args.short:g} s: {statuses} {said}, after {time.monotonic() - begun:.0f} s", flush=True)
        print("  the same bits" if same else "  OTHER BITS", flush=True)
        statuses, said = run(recipe, root / "long", cut=3 * args.patience, patience=args.patience)
        print(
            f"cut for {3 * args.patience} s, and {args.patience} s of patience: {statuses}",
            *said,
            sep="\n  ",
            flush=True,
        )
        told = any(statuses) and any("did not come" in line or "is gone" in line for line in said)
        statuses, _ = run(recipe, root / "long", "--resume")
        again = statuses == [0, 0] and bits(root / "long") == bits(root / "unharmed")
        print(f"gone on with: {statuses}, {'the same bits' if again else 'OTHER BITS'}")
    raise SystemExit(0 if same and told and again else 1)


if __name__ == "__main__":
    main()
