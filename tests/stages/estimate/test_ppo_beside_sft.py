"""PPO's memory beside that of fine-tuning: four models are one in memory, and nothing that sampling kept is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.stages.estimate import allocated

from palate import recipe as recipes
from palate.evals import plots
from palate.evals.page import Report
from palate.lm.adapters import adapted
from palate.lm.decoder import TokenHead
from palate.lm.model import Model
from palate.lm.optim import Optimizer
from palate.lm.projection import Projecting, Projection
from palate.recipe import parse_recipe
from palate.records import Demonstration, Prompt, Ranking, Response
from palate.run.directory import Run
from palate.stages import reward, sft
from palate.stages.reinforcement import ppo

COUNT, NEW = 8, 40
WAYS = {"adapters": {"adapter": {"rank": 8}}, "frozen layers": {"frozen_layers": 3}}


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prompts of 40 letters, and responses to them as long as what PPO will draw."""
    directory = tmp_path_factory.mktemp("same")
    prompts = [Prompt.from_text(f"{number:02} " + "What is to be said of that then? "[:37]) for number in range(30)]
    texts = [letter * (NEW - 1) for letter in "ab"]
    records: dict[str, list[Any]] = {
        "prompts": list(prompts),
        "demonstrations": [Demonstration(prompt=each, response=Response(text=texts[0])) for each in prompts],
        "rankings": [
            Ranking(prompt=each, responses=tuple(Response(text=text) for text in texts), ranks=(1, 2), labeler="ann")
            for each in prompts
        ],
    }
    for name, rows in records.items():
        (directory / f"{name}.jsonl").write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8")
    return {name: str(directory / f"{name}.jsonl") for name in records}


def trees(model: str, same: dict[str, str], reward_model: str, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Recipes of the three stages, with as many tokens in a step."""
    common = {"model": model, "microbatch_tokens": 100_000} | common
    drawing = {"max_new_tokens": NEW, "num_slots": COUNT}
    return {
        "reward": common | {"data": {"path": same["rankings"]}, "batch_responses": COUNT},
        "sft": common | {"data": {"path": same["demonstrations"]}, "batch_size": COUNT},
        "ppo": common
        | {"prompts": {"path": same["prompts"]}, "rewards": [{"model": reward_model}], "sampling": drawing}
        | {"steps": 3, "prompts_per_step": COUNT, "responses_per_prompt": 1},
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_ppo_needs_little_more(
    way: dict[str, Any],
    precision: str,
    files: dict[str, str],
    same: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most 1.3 times what fine-tuning on as many tokens takes; and no copy that only sampling needs is left then."""
    monkeypatch.setattr(Report, "figure", lambda *_: None)
    for name in ("calibration", "agreement_matrix"):
        monkeypatch.setattr(plots, name, lambda *_: None)
    stages: dict[str, tuple[Any, Any]] = {
        "reward": (recipes.RewardRecipe, reward.train),
        "sft": (recipes.SFTRecipe, sft.train),
        "ppo": (recipes.PPORecipe, ppo.train),
    }
    learners: list[Model] = []
    begin, step = Optimizer.__init__, Optimizer.step

    def begins(self: Optimizer, model: Model, *args: Any, **kwargs: Any) -> None:
        begin(self, model, *args, **kwargs)
        learners.append(model)

    def steps(self: Optimizer, number: int) -> dict[str, float]:
        for model in learners:
            modules = [each for each in model.modules() if isinstance(each, Projection | Projecting)]
            left = [each for each in modules if each.kept._product is not None and learns_above(model, each)]
            assert not [each for each in left if precision == "fp32" or isinstance(each, TokenHead)]
        return step(self, number)

    monkeypatch.setattr(Optimizer, "__init__", begins)
    took = {}
    for stage, tree in trees(files["model"], same, str(tmp_path / "reward"), way | {"precision": precision}).items():
        kind, train = stages[stage]
        recipe = parse_recipe(kind, tree)
        run = Run.open(tmp_path / stage, recipe)
        with monkeypatch.context() as patch:
            if stage == "ppo":
                patch.setattr(Optimizer, "step", steps)
            learners.clear()
            took[stage] = allocated.peak(lambda train=train, recipe=recipe, run=run: train(recipe, run))
    print(f"{took['ppo'] / took['sft']:.2f} {took}")
    assert took["ppo"] <= 1.3 * took["sft"]


def learns_above(model: Model, module: Any) -> bool:
    """Whether gradients are handed through all of it: it is the head, or in a layer above the first that learns."""
    if isinstance(module, TokenHead):
        return True
    first = 1 if adapted(model) else model.frozen_layers
    return any(module in set(layer.modules()) for layer in model.model.upper(first))
