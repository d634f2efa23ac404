"""What a reinforcement step does with what it is given: the engine, above all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palate.recipe import PPORecipe, parse_recipe
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement import ppo


def test_the_engine_is_given_the_weights_before_every_rollout(
    settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a resume too, as that is before a rollout; an engine in another process has no other way to them."""
    told: list[str] = []
    load, generate = LocalEngine.load_weights, LocalEngine.generate

    def loads(self: LocalEngine, model: Any) -> None:
        told.append("weights")
        load(self, model)

    def generates(self: LocalEngine, *args: Any, **settings: Any) -> Rollout:
        told.append("rollout")
        return generate(self, *args, **settings)

    monkeypatch.setattr(LocalEngine, "load_weights", loads)
    monkeypatch.setattr(LocalEngine, "generate", generates)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    recipe = parse_recipe(PPORecipe, settings["ppo"])
    ppo.train(recipe, Run.open(tmp_path / "run", recipe))
    assert told == ["weights", "rollout"] * 2
