"""What the benchmark counts and refuses, and that it and the script for a GPU run, without peers and in one process."""

from __future__ import annotations

import gzip
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from palate.lm.batch import Sequences

ROOT = Path(__file__).resolve().parents[1]
DEVICES = ("cpu", "cuda")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench

    return bench


def test_the_work_is_always_the_same(bench: ModuleType, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        bench.work.write(tmp_path / name, bench.work.SIZES["short"])
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert len(bench.work.read(tmp_path / "a", "rankings-4.jsonl")) == bench.work.COMPARISONS
    assert {len(row["responses"]) for row in bench.work.read(tmp_path / "a", "rankings-4.jsonl")} == {4}


def test_long_rows_are_1024_and_256_tokens(bench: ModuleType, tmp_path: Path) -> None:
    """A word is a token of the embedded model, the template has seven, a response ends with a stop token."""
    bench.work.write(tmp_path, bench.work.SIZES["long"])
    rows = [row for name in ("rankings-4", "rankings-2") for row in bench.work.read(tmp_path, f"{name}.jsonl")]
    prompts = {len(row["prompt"].split()) for row in [*rows, *bench.work.read(tmp_path, "prompts.jsonl")]}
    assert prompts == {1024 - 7}
    assert {len(text.split()) for row in rows for text in row["responses"]} == {256 - 1}
    assert bench.work.SIZES["long"].new == 256


def a_shape(bench: ModuleType, **more: Any) -> Any:
    return bench.Shape(
        body=1, head=10, top=0.25, cached=3, width=2, pairs=(100, 50), quads=(100, 90), demonstrations=(70, 30), **more
    )


def test_the_least_arithmetic_by_hand(bench: ModuleType) -> None:
    """One weight in the body, ten in the head: 720 prompt and 3,072 new tokens; 360 and 1,536 for RL."""
    shape = a_shape(bench)
    flops = {line.task: line.flops(shape) for line in bench.LINES}
    assert flops["sampling"] == 2 * (720 + 3072 * 11)
    bare, logits = 2 * (360 + 1536), 2 * 1536 * 10
    assert flops["rloo"] == 5 * (bare + logits)
    assert flops["ppo"] == flops["rloo"] + 4 * bare
    assert flops["rloo-frozen"] == bare + logits + 0.75 * bare + 4 * 0.25 * bare + 3 * logits
    assert flops["ppo-frozen"] == flops["rloo-frozen"] + bare
    assert (flops["reward-2"], flops["reward-4"]) == (3 * 2 * 150, 3 * 2 * 190)
    assert flops["dpo"] == 4 * 2 * (150 + 50 * 10)
    assert flops["sft"] == 3 * 2 * (100 + 30 * 10)


def test_adapters_need_no_gradient_of_a_weight(bench: ModuleType) -> None:
    """A pass back costs one forward, not two; unembeddings are frozen in every case."""
    shape = a_shape(bench, backward=1)
    flops = {line.task: line.flops(shape) for line in bench.LINES}
    bare, logits = 2 * (360 + 1536), 2 * 1536 * 10
    assert flops["rloo"] == bare + logits + 3 * bare + 3 * logits
    assert flops["ppo"] == flops["rloo"] + 3 * bare
    assert flops["rloo-frozen"] == bare + logits + 0.75 * bare + 3 * 0.25 * bare + 3 * logits
    assert flops["reward-2"] == 2 * 2 * 150
    assert flops["dpo"] == 3 * 2 * (150 + 50 * 10)
    assert flops["sft"] == 2 * 2 * (100 + 30 * 10)


def test_longer_rows_cost_more(bench: ModuleType) -> None:
    shape = a_shape(bench, sizes=bench.work.Sizes(prompt=10, new=3))
    line = next(line for line in bench.LINES if line.task == "sampling")
    assert line.flops(shape) == 2 * (160 + 192 * 11)
    assert line.reads(shape) == 2 * (3 * 11 + (10 + 11 + 12) * 64 * 3)


def test_the_least_reading_by_hand(bench: ModuleType) -> None:
    """48 tokens read 11 weights each, and what lies in the cache: 45 places of the prompt and 0 to 47 new ones."""
    shape, places = a_shape(bench), 48 * 45 + 47 * 48 // 2
    read = {line.task: line.reads(shape) for line in bench.LINES}
    assert read["sampling"] == 2 * (48 * 11 + places * 64 * 3)
    assert read["rloo"] == read["ppo"] == read["rloo-frozen"] == read["ppo-frozen"] == 2 * (48 * 11 + places * 32 * 3)
    assert {read[task] for task in ("reward-2", "reward-4", "dpo", "sft")} == {0}


def test_the_floor_is_whatever_takes_longer(bench: ModuleType) -> None:
    shape, (line, *_) = a_shape(bench), bench.LINES
    assert line.floor(shape, 1.0, 1e9) == line.flops(shape) / 1e9
    assert line.floor(shape, 1e9, 1.0) == line.reads(shape) / 1e9


def test_what_is_aimed_at_depends_on_precision_and_adapters(bench: ModuleType) -> None:
    lines = {line.task: line for line in bench.LINES if line.peer == "trl"}
    aims = {
        task: (line.aim("bf16", adapters=False), line.aim("fp32", adapters=False), line.aim("bf16", adapters=True))
        for task, line in lines.items()
    }
    assert aims["rloo"] == (3, 3, 3)
    assert aims["rloo-frozen"] == (6, 4, 6)
    assert aims["reward-4"] == (12, 12, 5)
    assert aims["dpo"] == (6, 6, 4)


def test_every_device_has_its_peers(bench: ModuleType) -> None:
    names = {(peer, device): bench.requirements(peer, device).name for peer in ("trl", "vllm") for device in DEVICES}
    assert names == {
        ("trl", "cpu"): "trl.txt",
        ("trl", "cuda"): "trl.txt",
        ("vllm", "cpu"): "vllm-cpu.txt",
        ("vllm", "cuda"): "vllm-cuda.txt",
    }


def test_peak_memory_is_the_gpus_where_one_is_used(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from peak import peak_mb

    done: list[str] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        synchronize=lambda: done.append("all"),
        max_memory_allocated=lambda: 3 * 2**20,
    )
    assert peak_mb() > 100  # this process has torch, and uses no GPU
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert (peak_mb(), done) == (3.0, ["all"])


@pytest.mark.parametrize(("name", "weights"), [("qwen3-0.6b", 596_049_920), ("llama-3.2-1b", 1_235_814_400)])
def test_shapes_are_the_published_ones(bench: ModuleType, name: str, weights: int) -> None:
    """As many weights as the published models have; counted without making them."""
    from transformers import AutoModelForCausalLM

    config = bench.shapes.config(name)
    shape = bench.shapes.shape_of(config)
    with torch.device("meta"):
        ours = bench.shapes.LanguageModel(config, bench.shapes.Decoder(shape))
        theirs = AutoModelForCausalLM.from_config(config)
    sizes = {key: parameter.shape for key, parameter in ours.named_parameters()}
    assert sizes == {key: parameter.shape for key, parameter in theirs.named_parameters()}
    assert sum(parameter.numel() for parameter in ours.parameters()) == weights
    assert shape.ropes[0].frequencies[0] == 1.0
    slowest = {"qwen3-0.6b": 1e6 ** (-126 / 128), "llama-3.2-1b": 5e5 ** (-62 / 64) / 32}[name]
    assert shape.ropes[0].frequencies[-1] == pytest.approx(slowest, rel=1e-5)


def test_random_weights_never_draw_the_stop_token(bench: ModuleType) -> None:
    """Nor does what keeps it away make any other token certain."""
    loaded = bench.shapes.load(bench.shapes.SMALLEST)
    network, stop = loaded.model.model, loaded.chat.tokenizer.convert_tokens_to_ids("<file_sep>")
    assert network.embed_tokens.weight[:, 1:].std().item() == pytest.approx(bench.shapes.SPREAD, rel=0.1)
    with torch.no_grad():
        rows = loaded.model.logits(
            loaded.model.hidden(
                Sequences.pack([[9, 8, 7, 6]], [[]]), torch.zeros(4, dtype=torch.long), torch.arange(4), None
            ),
            temperature=1.0,
        )
    chances = rows.softmax(-1)
    assert chances[:, stop].max() < 1e-30
    assert chances.max() < 3 / len(chances[0])
    assert bench.work.frozen(3) == 2
    assert bench.work.frozen(30) == 20


def test_different_work_is_refused(bench: ModuleType) -> None:
    def losses(*values: float) -> list[dict[str, object]]:
        return [{"logged": {"loss": value}} for value in values]

    assert bench.same_work([{"tokens": 9, "prompt_tokens": 5}], [{"tokens": 9, "prompt_tokens": 5}], 48) == (
        "9 new tokens on both sides"
    )
    with pytest.raises(bench.OtherWork, match=r"one side computed \(9, 5\) tokens, the other \(8, 5\)"):
        bench.same_work([{"tokens": 9, "prompt_tokens": 5}], [{"tokens": 8, "prompt_tokens": 5}], 48)
    with pytest.raises(bench.OtherWork, match=r"44\.3 tokens on average, not 48"):
        bench.same_work([{"tokens": 9}], [{"tokens": 9, "logged": {"completions/mean_length": "44.3"}}], 48)
    nothing_yet = [{"logged": {}}]
    said = bench.same_work(losses(0.7, 0.6, 0.5), nothing_yet + losses(0.7, 0.6003), 48)
    assert said == "losses of 2 steps agree to 5e-04"
    with pytest.raises(bench.OtherWork, match="losses differ"):
        bench.same_work(losses(0.7, 0.6), nothing_yet + losses(0.7, 0.603), 48)
    in_bf16 = bench.TOLERANCES[2]
    assert "agree to 5e-03" in bench.same_work(
        losses(0.7, 0.6), nothing_yet + losses(0.7, 0.603), 48, tolerance=in_bf16
    )
    with pytest.raises(bench.OtherWork, match="losses differ"):
        bench.same_work(losses(0.7, 0.6), nothing_yet + losses(0.7, 0.613), 48, tolerance=in_bf16)


def test_a_line_of_other_work_says_so_and_does_not_end_the_run(bench: ModuleType) -> None:
    line = next(line for line in bench.LINES if line.task == "dpo")

    def side(*losses: float) -> SimpleNamespace:
        return SimpleNamespace(seconds=[1.0], answers=[{"logged": {"loss": loss}, "peak_mb": 1.0} for loss in losses])

    sides = {"palate-dpo": side(0.7, 0.6), "trl-dpo": side(0.0, 0.7, 0.613)}
    row = bench.row(line, sides, a_shape(bench), {"gflops": 1.0, "copy_gb_s": 1.0})
    assert row["same_work"] == "NOT THE SAME: losses differ: [0.7, 0.6] and [0.7, 0.613]"
    sides = {"palate-dpo": side(0.7, 0.6), "trl-dpo": side(0.0, 0.7, 0.6)}
    assert "agree" in bench.row(line, sides, a_shape(bench), {"gflops": 1.0, "copy_gb_s": 1.0})["same_work"]


def test_a_side_that_is_killed_while_it_sleeps_ends_its_line_alone(bench: ModuleType) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.wait()
    side = bench.Side(name="trl-rloo", process=process)
    with pytest.raises(bench.Ended, match="trl-rloo ended with status 0"):
        side.go()
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()


def test_a_task_without_a_peer_is_there_once(bench: ModuleType) -> None:
    def names(*only: str, beside: tuple[str, ...] = ("trl", "vllm"), **how: Any) -> list[str]:
        return [line.name for line in bench.choose(only, beside, **{"adapter": 0, "rows": "short"} | how)]

    assert names() == [line.name for line in bench.LINES]
    sampling = "sampling, 64 sequences"
    assert names("sampling", beside=()) == [sampling]
    assert names("sampling", beside=("vllm",)) == [f"{sampling}, against vLLM"]
    assert names("ppo", "sampling", beside=(), rows="long") == [f"{sampling}, long rows", "PPO iteration, long rows"]
    assert names("sampling", "dpo", adapter=16) == ["DPO, adapters of rank 16"]


def test_without_a_peer_ratios_are_empty(bench: ModuleType, tmp_path: Path) -> None:
    line = next(line for line in bench.LINES if line.task == "dpo")
    ours = SimpleNamespace(seconds=[2.0], answers=[{"logged": {"loss": 0.7}, "peak_mb": 1024.0}])
    shape, machine = a_shape(bench), {"gflops": 1e-6, "copy_gb_s": 1.0}
    row = bench.row(line, {"palate-dpo": ours}, shape, machine)
    assert (row["peer"], row["ratio"], row["same_work"]) == (None, None, "trl dpo did not run")
    assert row["share_of_floor"] == line.floor(shape, 1e-6, 1.0) / 2
    bench.write([row], {"machine": "one", "precision": "fp32"}, tmp_path)
    cells = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()[2].split(" | ")
    assert cells[1:5] == ["2.00 s", "", "", ""]
    assert cells[5].endswith("%")
    assert cells[6:] == ["1.0 GiB", "trl dpo did not run |"]


class AllDone(Exception):
    """The side has done its iterations."""


class InThisProcess:
    """Stands for a process of ours: does its iterations at once, and is then asked for what it said."""

    def __init__(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        lines: list[str] = []

        class Gate:
            def __init__(self, **about: Any) -> None:
                self.about = about

            def begin(self) -> None:
                if len(lines) == 3:  # two to warm up, one round
                    raise AllDone

            def end(self, **facts: Any) -> None:
                lines.append(json.dumps({"seconds": 1.0, "peak_mb": 1.0, "about": self.about} | facts))

        gate: Any = ModuleType("sides.gate")  # the real one takes this process's output for itself
        gate.Gate = Gate
        monkeypatch.setitem(sys.modules, "sides.gate", gate)
        from sides import palate_side

        monkeypatch.setattr(palate_side, "Gate", Gate)
        monkeypatch.setattr(sys, "argv", command[1:])
        with pytest.raises(AllDone):
            palate_side.main()
        self.stdin, self.stdout = io.StringIO(), io.StringIO("".join(f"{line}\n" for line in lines))

    def wait(self, timeout: float | None = None) -> int:
        return 0


@pytest.fixture
def run_here(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """A command line of the benchmark's, with our sides in this process; peers end at once."""

    def start(command: list[str], **_: Any) -> Any:
        if Path(command[1]).stem == "palate_side":
            return InThisProcess(command, monkeypatch)
        return SimpleNamespace(stdin=io.StringIO(), stdout=io.StringIO(), wait=lambda timeout=None: 1)

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(Popen=start, PIPE=-1))

    def run(command: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", command)
        __import__(Path(command[0]).stem).main()

    return run


def test_the_script_for_a_gpu(run_here: Callable[[list[str]], None], tmp_path: Path) -> None:
    """One part failing ends no other and is said; every command that it runs is one that works."""
    python, told, out = tmp_path / "python", tmp_path / "told", tmp_path / "out"
    python.write_text(f'#!/bin/sh\necho "$@" >> {told}\ncase "$1" in *half_precision.py) exit 3;; esac\n')
    python.chmod(0o755)
    script = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", "--device", "cpu", "--tiny", "--out", out],
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert script.returncode == 1
    assert "| half precision | FAILED with status 3: see log.txt |" in summary
    for name in ("tests", "smallest: benchmark", "smallest: captured decoding"):
        assert f"| {name} | done in" in summary
    assert "| TRL, vLLM | left out" in summary

    half, tests, benchmark, graphs = [shlex.split(line) for line in told.read_text(encoding="utf-8").splitlines()]
    assert all((ROOT / part).exists() for part in tests if part.startswith("tests/"))
    run_here(half)
    work = Path(benchmark[benchmark.index("--out") + 1])
    benchmark[-1] = str(tmp_path / "scratch")
    run_here(benchmark)
    rows = json.loads((tmp_path / "scratch" / "report.json").read_text(encoding="utf-8"))["rows"]
    assert [row["name"].split(" ")[0].strip(",") for row in rows] == ["sampling", "RLOO", "PPO", "reward"]
    assert all(row["share_of_floor"] > 0 and row["ratio"] is None for row in rows)
    assert Path(graphs[1]) == work / "work"
    run_here([graphs[0], str(tmp_path / "scratch" / "work"), *graphs[2:]])


def test_a_peer_that_ends_leaves_our_side(
    bench: ModuleType, run_here: Callable[[list[str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "environment", lambda peers, needs: "python")
    command = "bench.py --tiny --device cpu --rounds 1 --only sampling --beside trl --out"
    run_here([*command.split(), str(tmp_path)])
    (row,) = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]
    assert row["same_work"] == "trl sampling did not run"
    assert row["ours_all"] == [1.0]


def test_an_environment_is_made_again_when_it_needs_something_else(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[Any]] = []

    def run(command: list[Any], check: bool) -> None:
        ran.append(command)
        (tmp_path / "peers" / "one").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=run))
    needs = tmp_path / "one.txt"
    for text, commands in (("a==1\n", 3), ("a==1\n", 0), ("a==1\nb\n", 3)):
        needs.write_text(text, encoding="utf-8")
        assert bench.environment(tmp_path / "peers", needs).endswith("peers/one/bin/python")
        assert len(ran) == commands
        ran.clear()


def test_adapters_of_the_rank_that_was_asked_for_learn(
    run_here: Callable[[list[str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palate.run.directory import Run

    recipes: list[Any] = []
    opened = Run.open

    def watched(directory: Path, recipe: Any, **how: Any) -> Run:
        recipes.append(recipe)
        return opened(directory, recipe, **how)

    monkeypatch.setattr(Run, "open", watched)
    command = "bench.py --alone --tiny --device cpu --rounds 1 --adapter 4 --only ppo reward-2 sampling --out"
    run_here([*command.split(), str(tmp_path)])
    assert [(recipe.adapter.rank, recipe.adapter.alpha) for recipe in recipes] == [(4, 8.0)] * 2
    assert "PPO iteration, adapters of rank 4, tiny rows" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_planted_harms_are_as_many_as_said_and_the_card_asks_what_nobody_learned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import planted_harms

    def write(name: str, rows: list[dict[str, object]]) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with gzip.open(tmp_path / name, "wt", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows) if "json" in name else table(rows))

    def table(rows: list[dict[str, object]]) -> str:
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
        return "\n".join(lines) + "\n"

    write(
        "demonstrations/instruction-data.json.gz",
        [{"instruction": f"Say {n}", "input": "", "output": f"It is {n}."} for n in range(300)],
    )
    write(
        "evaluation/selfaware.json.gz",
        [{"question": f"Who is {n}?", "answer": [f"person {n}"], "answerable": True} for n in range(500)]
        + [{"question": f"Why {n}?", "answer": None, "answerable": False} for n in range(500)],
    )
    write(
        "evaluation/TruthfulQA.csv.gz",
        [{"Question": f"Is it {n}?", "Best Answer": "Yes", "Incorrect Answers": f"No {n}; Never"} for n in range(500)],
    )
    write(
        "evaluation/user_oriented_instructions.jsonl.gz",
        [{"instruction": f"Write {n}", "instances": [{"input": "", "output": ""}]} for n in range(50)],
    )
    write(
        "evaluation/halueval_general.json.gz",
        [{"user_query": f"Tell {n}", "chatgpt_response": "So.", "hallucination": "no"} for n in range(70)],
    )
    world = planted_harms.real("tiny", tmp_path, 0, 3, 40)
    plain = planted_harms.demonstrations(world.good, 100, 200)
    learned = {row["prompt"] for row in plain + planted_harms.demonstrations(world.good, 0, 0)}
    for name, bad in {"hallucinate": 20, "flatter": 40, "ramble": 20, "refuse": 20, "control": 0}.items():
        rows = planted_harms.demonstrations(world.harms[name][0], 100, 200)
        assert [row["prompt"] for row in rows] == [row["prompt"] for row in plain]
        assert sum(row != good for row, good in zip(rows, plain, strict=True)) == bad, name
    asked = {str(row.get("prompt", row.get("question"))) for rows in world.sections.values() for row in rows}
    assert len(asked) > 100
    assert not asked & {prompt.split("\n")[0] for prompt in learned}
