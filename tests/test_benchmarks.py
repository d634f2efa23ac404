"""What the benchmark counts and refuses; that it runs is shown by its results."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

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
        bench.work.write(tmp_path / name)
        written.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert len(bench.work.read(tmp_path / "a", "rankings-4.jsonl")) == bench.work.COMPARISONS
    assert {len(row["responses"]) for row in bench.work.read(tmp_path / "a", "rankings-4.jsonl")} == {4}


def a_shape(bench: ModuleType) -> Any:
    return bench.Shape(
        body=1, head=10, top=0.25, cached=3, width=2, pairs=(100, 50), quads=(100, 90), demonstrations=(70, 30)
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


def test_another_shape_is_that_shape(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    monkeypatch.setattr(bench.shapes, "BASE", "tiny")
    monkeypatch.setitem(bench.shapes.SHAPES, "narrow", narrow | {"head_dim": 4, "intermediate_size": 16})
    loaded = bench.shapes.load("narrow")
    assert loaded.model.model.shape.num_layers == 3
    sizes = [parameter.numel() for parameter in loaded.model.model.layers[0].parameters()]
    assert sum(sizes) == 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 16 + 2 * 8
    assert loaded.model.model.embed_tokens.weight.std().item() == pytest.approx(bench.shapes.SPREAD, rel=0.1)
    assert bench.work.frozen(3) == 2
    assert bench.work.frozen(30) == 20


def test_different_work_is_refused(bench: ModuleType) -> None:
    def losses(*values: float) -> list[dict[str, object]]:
        return [{"logged": {"loss": value}} for value in values]

    assert bench.same_work([{"tokens": 9, "prompt_tokens": 5}], [{"tokens": 9, "prompt_tokens": 5}]) == (
        "9 new tokens on both sides"
    )
    with pytest.raises(bench.OtherWork, match=r"one side computed \(9, 5\) tokens, the other \(8, 5\)"):
        bench.same_work([{"tokens": 9, "prompt_tokens": 5}], [{"tokens": 8, "prompt_tokens": 5}])
    with pytest.raises(bench.OtherWork, match=r"44\.3 tokens on average, not 48"):
        bench.same_work([{"tokens": 9}], [{"tokens": 9, "logged": {"completions/mean_length": "44.3"}}])
    nothing_yet = [{"logged": {}}]
    said = bench.same_work(losses(0.7, 0.6, 0.5), nothing_yet + losses(0.7, 0.6003))
    assert said == "losses of 2 steps agree to 5e-04"
    with pytest.raises(bench.OtherWork, match="losses differ"):
        bench.same_work(losses(0.7, 0.6), nothing_yet + losses(0.7, 0.61))


def test_a_line_of_other_work_says_so_and_does_not_end_the_run(bench: ModuleType) -> None:
    line = next(line for line in bench.LINES if line.task == "dpo")

    def side(*losses: float) -> SimpleNamespace:
        return SimpleNamespace(seconds=[1.0], answers=[{"logged": {"loss": loss}, "peak_mb": 1.0} for loss in losses])

    sides = {"palate-dpo": side(0.7, 0.6), "trl-dpo": side(0.0, 0.7, 0.61)}
    row = bench.row(line, sides, a_shape(bench), {"gflops": 1.0, "copy_gb_s": 1.0})
    assert row["same_work"] == "NOT THE SAME: losses differ: [0.7, 0.6] and [0.7, 0.61]"
    sides = {"palate-dpo": side(0.7, 0.6), "trl-dpo": side(0.0, 0.7, 0.6)}
    assert "agree" in bench.row(line, sides, a_shape(bench), {"gflops": 1.0, "copy_gb_s": 1.0})["same_work"]
