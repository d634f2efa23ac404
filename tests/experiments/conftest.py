"""Recipes on disk that are small enough for a test, and what they are measured by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tests.stages.conftest import data as data
from tests.stages.conftest import settings as settings
from tests.stages.conftest import teacher as teacher

from palate.demo.prompts import demo_prompts

Write = Callable[..., str]
HELD_OUT = 6


@pytest.fixture
def evaluation(tmp_path: Path) -> dict[str, Any]:
    """What all are measured by."""
    path = tmp_path / "held_out.jsonl"
    prompts = demo_prompts(held_out=True)[:HELD_OUT]
    path.write_text("".join(prompt.to_json() + "\n" for prompt in prompts), encoding="utf-8")
    return {
        "baseline": "tiny",
        "precision": "fp32",
        "prompts": {"path": str(path)},
        "judge": {"function": "tests.stages.effects.judges:brevity"},
        "sampling": {"max_new_tokens": 8},
        "responses_per_prompt": 2,
        "points": 2,
        "best_of": 4,
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe tree to ``NAME.toml``."""

    def write(name: str, tree: dict[str, Any], **changes: Any) -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(tomli_w.dumps(tree | changes), encoding="utf-8")
        return str(path)

    return write
