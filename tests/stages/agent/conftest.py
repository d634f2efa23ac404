"""An agent's recipe that is over in a second."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def small_agent() -> dict[str, Any]:
    return {
        "environment": "Pendulum-v1",
        "num_environments": 2,
        "steps": 4,
        "steps_per_rollout": 30,
        "epochs": 2,
        "minibatches": 2,
        "hidden_size": 8,
        "evaluate_every": 2,
        "evaluation_episodes": 1,
        "final_episodes": 2,
        "labels": {"budget": 12, "clip_length": 5, "ask_every": 1, "candidates": 2},
        "reward_model": {"updates": 3, "batch_size": 4, "hidden_size": 8},
    }
