"""Rows of the keys of vLLM servers, in one stage: the others hand the section to the same engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.stages.effects.rows import Row, under
from tests.stages.effects.runs import KEY, KEY_VARIABLE, Outcome
from tests.stages.effects.shared import refused


def at(*names: str) -> dict[str, Any]:
    """Servers that `runs.servers` makes, by what is the matter with them."""
    return {"engine": {"kind": "vllm", "servers": [f"http://{name}.test:8300" for name in names]}, "steps": 1}


def reinforce() -> list[Row]:
    """Keys of servers."""
    there, other = at("there")["engine"]["servers"], at("there", "other")["engine"]["servers"]
    rows = [
        Row("servers", (there, other), asks_them_all, at("there")),
        Row("key_variable", ("", KEY_VARIABLE), shows_the_token, at("there")),
        Row("weights", ("", "$answers"), leaves_weights_there, at("there")),
        Row("timeout_s", (600.0, 90.0), waits_so_long, at("there")),
        Row("retries", (2, 1), refused("asked 2 times (engine.retries)"), at("busy") | {"sampling.num_slots": 1}),
        Row("patience_s", (60.0, 1e-9), refused("(engine.patience_s)"), at("late")),
        Row("max_ratio", (2.0, 1.0), counts_at_most, at("modest")),
    ]
    return under("engine", rows)


def asks_them_all(a: Outcome, b: Outcome) -> None:
    assert [len({each.address.split("/")[2] for each in outcome.served}) for outcome in (a, b)] == [1, 2]
    for outcome in (a, b):
        assert outcome.metrics[0]["sampler/gap"] < 1e-4
        assert all(len(row["weights"]) == 16 for row in outcome.lines("samples.jsonl"))


def shows_the_token(a: Outcome, b: Outcome) -> None:
    assert all("Authorization" not in each.headers for each in a.served)
    assert all(each.headers["Authorization"] == f"Bearer {KEY}" for each in b.served)
    assert KEY not in (b.directory / "recipe.toml").read_text(encoding="utf-8")


def leaves_weights_there(a: Outcome, b: Outcome) -> None:
    root = Path(b.recipe.engine.weights)
    for outcome, inside in ((a, False), (b, True)):
        told = [each.asked["kwargs"]["weights_path"] for each in outcome.served if "kwargs" in each.asked]
        assert told
        assert all(Path(path).is_relative_to(root) == inside for path in told)


def waits_so_long(a: Outcome, b: Outcome) -> None:
    assert [max(each.timeout for each in outcome.served) for outcome in (a, b)] == [600.0, 90.0]


def counts_at_most(a: Outcome, b: Outcome) -> None:
    """The server says of every token that it was a little less likely: uncut it counts that much more."""
    assert [outcome.metrics[0]["sampler/truncated"] for outcome in (a, b)] == [0.0, 1.0]
    more, less = (outcome.updates["policy"][0].gradient.double() for outcome in (a, b))
    assert float(less.norm()) > 0
    assert torch.allclose(more, less * torch.tensor(0.002).double().exp(), rtol=1e-3, atol=1e-8)
