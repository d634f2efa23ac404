"""A recipe of two rounds that is small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from palate.demo.prompts import demo_prompts
from palate.records import Prompt, Record

FRESH, HELD_OUT = 9, 4


def put(path: Path, records: Sequence[Record]) -> str:
    """One record a line."""
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    return str(path)


def read(path: Path) -> list[Any]:
    """Lines of JSON."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def held_out() -> list[Prompt]:
    return demo_prompts(held_out=True)[:HELD_OUT]


@pytest.fixture
def tree(tmp_path: Path, held_out: list[Prompt]) -> dict[str, Any]:
    """Two rounds; one of the fresh prompts is held out."""
    fresh = [*demo_prompts(held_out=False)[:FRESH], held_out[0]]
    return {
        "model": "tiny",
        "precision": "fp32",
        "frozen_layers": 1,
        "rounds": 2,
        "prompts_per_round": 4,
        "prompts": {"path": put(tmp_path / "fresh.jsonl", fresh)},
        "held_out": {"path": put(tmp_path / "held_out.jsonl", held_out)},
        "sampling": {"max_new_tokens": 6},
        "taste": {"function": "palate.simulated.tastes:short"},
        "sample": {"responses_per_prompt": 3},
        "reward": {"optimizer": {"learning_rate": 1e-2}, "batch_responses": 6, "checkpoint_every": 1},
        "policy": {
            "stage": "reinforce",
            "steps": 2,
            "prompts_per_step": 2,
            "responses_per_prompt": 2,
            "checkpoint_every": 1,
            "optimizer": {"learning_rate": 1e-2},
        },
        "evaluation": {"responses_per_prompt": 2},
    }


def written(tree: dict[str, Any], path: Path) -> str:
    """The recipe as a file."""
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")
    return str(path)
