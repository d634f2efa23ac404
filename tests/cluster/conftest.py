"""A run that several processes divide in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palate.demo.prompts import demo_prompts


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A recipe of four short steps."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(prompt.to_json() + "\n" for prompt in demo_prompts(held_out=False)[:12]))
    return {
        "model": "tiny",
        "precision": "fp32",
        "frozen_layers": 1,
        "optimizer": {"learning_rate": 1e-3},
        "prompts": {"path": str(prompts)},
        "rewards": [{"length": 3.0}],
        "sampling": {"max_new_tokens": 6},
        "prompts_per_step": 3,
        "steps": 4,
        "checkpoint_every": 2,
    }
