"""What a reinforcement step does with what it is given: the engine, above all."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from palate import recipe as recipes
from palate.commands import STAGES
from palate.recipe import parse_recipe
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages import common


@pytest.mark.parametrize("name", ["ppo", "reinforce", "online-dpo", "raft", "distill"])
def test_the_engine_is_given_the_weights_before_every_rollout(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a resume too, as that is before a rollout; an engine in another process has no other way to them."""
    told: list[tuple[LocalEngine, str]] = []
    load, generate = LocalEngine.load_weights, LocalEngine.generate

    def loads(self: LocalEngine, model: Any) -> None:
        told.append((self, "weights"))
        load(self, model)

    def generates(self: LocalEngine, *args: Any, **settings: Any) -> Rollout:
        told.append((self, "rollout"))
        return generate(self, *args, **settings)

    monkeypatch.setattr(LocalEngine, "load_weights", loads)
    monkeypatch.setattr(LocalEngine, "generate", generates)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    stage = next(each for each in STAGES if each.name == name)
    recipe: Any = parse_recipe(getattr(recipes, stage.recipe), settings[name])
    getattr(import_module(stage.module), stage.function)(recipe, Run.open(tmp_path / "run", recipe))
    sampler, _ = told[0]  # teachers have engines of their own, and weights that stay
    assert [what for engine, what in told if engine is sampler] == ["weights", "rollout"] * 2
