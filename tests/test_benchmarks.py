"""What the benchmark counts and refuses; that it runs is shown by its results."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


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


def test_the_least_arithmetic_by_hand(bench: ModuleType) -> None:
    """One weight in the body, ten in the head: 720 prompt and 3,072 new tokens; 360 and 1,536 for RL."""
    shape = bench.Shape(body=1, head=10, top=0.25, pairs=(100, 50), quads=(100, 90), demonstrations=(70, 30))
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


def test_different_work_is_refused(bench: ModuleType) -> None:
    def losses(*values: float) -> list[dict[str, object]]:
        return [{"logged": {"loss": value}} for value in values]

    assert bench.same_work([{"tokens": 9, "prompt_tokens": 5}], [{"tokens": 9, "prompt_tokens": 5}]) == (
        "9 new tokens on both sides"
    )
    with pytest.raises(SystemExit, match=r"one side computed \(9, 5\) tokens, the other \(8, 5\)"):
        bench.same_work([{"tokens": 9, "prompt_tokens": 5}], [{"tokens": 8, "prompt_tokens": 5}])
    with pytest.raises(SystemExit, match=r"44\.3 tokens on average, not 48"):
        bench.same_work([{"tokens": 9}], [{"tokens": 9, "logged": {"completions/mean_length": "44.3"}}])
    nothing_yet = [{"logged": {}}]
    said = bench.same_work(losses(0.7, 0.6, 0.5), nothing_yet + losses(0.7, 0.6003))
    assert said == "losses of 2 steps agree to 5e-04"
    with pytest.raises(SystemExit, match="losses differ"):
        bench.same_work(losses(0.7, 0.6), nothing_yet + losses(0.7, 0.61))
