"""What a reinforcement step does with what it is given: the engine, above all."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from palate import recipe as recipes
from palate.commands import STAGES
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel, Model
from palate.lm.optim import Optimizer
from palate.lm.projection import Projecting, Projection
from palate.recipe import parse_recipe
from palate.records import Prompt
from palate.rollout.engine import Rollout
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement import step as step_of


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
    start(name, settings, tmp_path)
    sampler, _ = told[0]  # teachers have engines of their own, and weights that stay
    assert [what for engine, what in told if engine is sampler] == ["weights", "rollout"] * 2


@pytest.mark.parametrize("name", ["ppo", "reinforce", "online-dpo", "raft", "distill"])
def test_frozen_layers_are_computed_once_a_step_and_in_microbatches(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody computes them again: not the policy that learns, nor its reference or its teachers."""
    kept: list[int] = []
    given: list[bool] = []
    trunk, logprobs, kl = LanguageModel.trunk, LanguageModel.logprobs, LanguageModel.kl

    def keeps(self: LanguageModel, sequences: Any, *, max_tokens: int = 8192) -> Any:
        kept.append(max_tokens)
        return trunk(self, sequences, max_tokens=max_tokens)

    def likelihood(self: LanguageModel, *args: Any, trunk: Any = None, **more: Any) -> Any:
        given.append(trunk is not None)
        return logprobs(self, *args, trunk=trunk, **more)

    def divergence(self: LanguageModel, *args: Any, trunk: Any = None, **more: Any) -> Any:
        given.append(trunk is not None)
        return kl(self, *args, trunk=trunk, **more)

    monkeypatch.setattr(LanguageModel, "trunk", keeps)
    monkeypatch.setattr(LanguageModel, "logprobs", likelihood)
    monkeypatch.setattr(LanguageModel, "kl", divergence)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    start(name, {name: settings[name] | {"microbatch_tokens": 100}}, tmp_path)
    assert kept == [100, 100]
    assert given
    assert all(given)


@pytest.mark.parametrize("name", ["ppo", "reinforce", "online-dpo", "raft", "distill"])
def test_every_draw_has_random_numbers_of_its_own(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other than in any other step, of another model, with another seed and in another stage; prompts likewise."""
    drawn: list[tuple[int | str, ...]] = []
    shuffled: list[tuple[int | str, ...]] = []
    generate, shuffle = LocalEngine.generate, step_of.permutation

    def generates(self: LocalEngine, *args: Any, key: tuple[int | str, ...], **settings: Any) -> Rollout:
        drawn.append(key)
        return generate(self, *args, key=key, **settings)

    def shuffles(count: int, *key: int | str) -> Any:
        shuffled.append(key)
        return shuffle(count, *key)

    monkeypatch.setattr(LocalEngine, "generate", generates)
    monkeypatch.setattr(step_of, "permutation", shuffles)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    start(name, {name: settings[name] | {"seed": 3, "epochs": 2, "minibatches": 2}}, tmp_path)
    stage = name.replace("-", "_")
    assert {key[:2] for key in drawn} == {key[:2] for key in shuffled} == {(3, stage)}
    assert len(set(drawn)) == len(drawn) == (6 if name == "distill" else 2)
    minibatches = {key for key in shuffled if "minibatches" in key}
    assert len(minibatches) >= 4, "two steps of two epochs, each in an order of its own"


@pytest.mark.parametrize("name", ["reinforce", "sample", "best-of-n"])
def test_prompts_are_tokenised_once_before_the_first_rollout(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    tokens = Chat.prompt_tokens

    def tokenises(self: Chat, prompt: Any) -> list[int]:
        told.extend([prompt.id] if isinstance(prompt, Prompt) else [])
        return tokens(self, prompt)

    def stops(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "prompt_tokens", tokenises)
    monkeypatch.setattr(LocalEngine, "generate", stops)
    asked = {key: settings["reinforce"][key] for key in ("model", "prompts", "sampling")}
    others = {"sample": asked, "best-of-n": asked | {"rewards": [{"length": 3.0}], "n": 2}}
    with pytest.raises(KeyboardInterrupt):
        start(name, settings | others, tmp_path)
    assert told
    assert len(told) == len(set(told))


def start(name: str, settings: dict[str, dict[str, Any]], directory: Path) -> None:
    """Run a stage."""
    stage = next(each for each in STAGES if each.name == name)
    recipe: Any = parse_recipe(getattr(recipes, stage.recipe), settings[name])
    getattr(import_module(stage.module), stage.function)(recipe, Run.open(directory / "run", recipe))


@pytest.mark.parametrize("name", ["ppo", "reinforce", "online-dpo", "raft"])
def test_one_model_is_updated_after_the_other(
    name: str, settings: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At an optimizer's step no other model has gradients, or copies of weights that products were made with."""
    met: list[Model] = []
    begin, update = Model.__init__, Optimizer.step
    updated: list[str] = []

    def begins(self: Model, *args: Any) -> None:
        begin(self, *args)
        met.append(self)

    def updates(self: Optimizer, step: int) -> dict[str, float]:
        learned = {id(weight) for weight in self.parameters.values()}
        (mine,) = [model for model in met if learned & {id(weight) for weight in model.parameters()}]
        running = {id(part) for layer in mine.model.upper(mine.frozen_layers) for part in layer.modules()}
        for model in met:
            assert model is mine or not any(weight.grad is not None for weight in model.parameters())
            parts = [part for part in model.modules() if isinstance(part, Projection | Projecting)]
            assert not [part for part in parts if part.kept._product is not None and id(part) not in running]
        updated.append(self.name)
        return update(self, step)

    monkeypatch.setattr(Model, "__init__", begins)
    monkeypatch.setattr(Optimizer, "step", updates)
    monkeypatch.setattr(common, "stage_report", lambda *_, **__: None)
    start(name, {name: settings[name] | {"precision": "bf16", "rewards": [{"model": "tiny"}]}}, tmp_path)
    assert {"policy"} <= set(updated) <= {"policy", "value"}
