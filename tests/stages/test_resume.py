"""A run may be killed at any instant: resumed, it ends with the same bits as one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from palate import recipe as recipes
from palate.cli import main
from palate.commands import STAGES
from palate.errors import TrainingError
from palate.recipe import parse_recipe
from palate.run.directory import Run

LONGER = {
    "pretrain": {"model": "", "frozen_layers": 0, "architecture": {"preset": "1m", "num_layers": 2}, "steps": 24}
    | {"vocabulary": {"size": 280}, "checkpoint_every": 3},
    "sft": {"epochs": 12, "batch_size": 4, "checkpoint_every": 3},
    "reward": {"epochs": 8, "checkpoint_every": 3},
    "ppo": {"steps": 24, "checkpoint_every": 3},
    "reinforce": {"steps": 24, "checkpoint_every": 3},
    "online-dpo": {"steps": 24, "checkpoint_every": 3},
    "raft": {"steps": 24, "checkpoint_every": 3},
    "distill": {"steps": 24, "checkpoint_every": 3},
    "kto": {"epochs": 12, "batch_size": 8, "checkpoint_every": 3},
}


def rows(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        ("pretrain", "fp32"),
        ("sft", "fp32"),
        ("reward", "bf16"),
        ("ppo", "fp32"),
        ("ppo", "bf16"),
        ("reinforce", "fp32"),
        ("kto", "fp32"),
        ("online-dpo", "fp32"),
        ("raft", "fp32"),
        ("distill", "bf16"),
    ],
)
def test_killed_and_resumed_ends_with_the_same_bits(
    stage: str,
    precision: str,
    settings: dict[str, dict[str, Any]],
    toml: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
) -> None:
    recipe = toml(settings[stage] | LONGER[stage] | {"precision": precision})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([stage, str(recipe), "--out", str(whole)]) == 0

    command = [sys.executable, "-m", "palate", stage, str(recipe), "--out", str(killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    chance = random.Random(stage)
    until, deadline = chance.randint(4, 12), time.monotonic() + 120
    while rows(killed) < until and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(chance.random() * 0.05)  # anywhere in a step, perhaps inside a checkpoint
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: give it more steps"
    assert not (killed / "model").exists()

    assert main([stage, str(recipe), "--out", str(killed), "--resume"]) == 0
    assert (killed / "metrics.jsonl").read_text().count("\n") == rows(whole)
    for name in ("model.safetensors", "config.json"):
        assert (killed / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


class Stopped(Exception):
    """The machine went away."""


@pytest.mark.parametrize("name", ["ppo", "reinforce", "online-dpo", "raft"])
def test_what_went_wrong_before_a_stop_still_counts_after_it(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps in a row end a run, also if it was stopped between the first of them and the second."""
    stage = next(each for each in STAGES if each.name == name)
    tree = settings[name] | {"steps": 5, "checkpoint_every": 1, "min_entropy": 100.0}
    recipe: Any = parse_recipe(getattr(recipes, stage.recipe), tree)
    train, log = getattr(import_module(stage.module), stage.function), Run.log

    def stops(self: Run, step: int, metrics: dict[str, float]) -> None:
        if step == 1:
            raise Stopped
        log(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stops)
        with pytest.raises(Stopped):
            train(recipe, Run.open(tmp_path / "run", recipe))
    with pytest.raises(TrainingError, match=r"^step 2: the policy's entropy has collapsed"):
        train(recipe, Run.open(tmp_path / "run", recipe, resume=True))
