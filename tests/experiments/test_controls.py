"""An agent beside its controls, over seeds: what is run, what is not run again, and what the report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.stages.agent.conftest import small_agent as small_agent

from palate.errors import RunError
from palate.experiments import controls
from palate.experiments.controls import run_agents, variations
from palate.recipe import AgentRecipe, parse_recipe

pytest.importorskip("gymnasium", reason="needs palate[gym]")


def test_the_controls_differ_in_what_is_learned_from_alone(small_agent: dict[str, Any]) -> None:
    recipe = parse_recipe(AgentRecipe, small_agent)
    kinds = variations(recipe, controls=True)
    assert list(kinds) == ["learned", "true-reward", "random-labels"]
    assert kinds["learned"] == recipe
    assert kinds["true-reward"] == recipe.model_copy(update={"reward": "environment"})
    assert kinds["random-labels"].labels.teacher == "random"
    assert kinds["random-labels"].model_copy(update={"labels": recipe.labels}) == recipe
    assert list(variations(recipe, controls=False)) == ["learned"]
    assert list(variations(kinds["true-reward"], controls=True)) == ["true-reward", "random-labels"]
    assert variations(kinds["true-reward"], controls=True)["random-labels"].reward == "comparisons"
    assert list(variations(kinds["random-labels"], controls=True)) == ["random-labels", "true-reward"]


def test_seeds_and_controls_in_one_report(
    small_agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(AgentRecipe, small_agent | {"seed": 3})
    found = run_agents(recipe, tmp_path, seeds=2, controls=True)
    assert [[outcome.seed for outcome in outcomes] for outcomes in found.values()] == [[3, 4]] * 3
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    for name, outcomes in found.items():
        own = [outcome.figures["return"] for outcome in outcomes]
        key = f"return_{name.replace('-', '_')}"
        assert report[key] == pytest.approx(sum(own) / 2)
        assert report[f"{key}_by_seed"] == {"3": own[0], "4": own[1]}
        assert [x for x, _ in outcomes[0].curve] == [60, 180, 240]
        for outcome in outcomes:
            written = json.loads((tmp_path / name / f"seed-{outcome.seed}" / "report.json").read_text())
            assert written["return"] == outcome.figures["return"]
    assert report["comparisons"] == 12
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in found)
    assert "animate" in (tmp_path / "learned" / "seed-3" / "report.html").read_text(encoding="utf-8")

    def never(*_: object) -> None:
        raise AssertionError("it was finished")

    monkeypatch.setattr(controls, "train", never)
    run_agents(recipe, tmp_path, seeds=2, controls=True)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report


def test_a_recipe_that_has_changed_is_refused(small_agent: dict[str, Any], tmp_path: Path) -> None:
    run_agents(parse_recipe(AgentRecipe, small_agent), tmp_path, seeds=1, controls=False)
    changed = parse_recipe(AgentRecipe, small_agent | {"gamma": 0.5})
    with pytest.raises(RunError, match=r"gamma: 0\.9 is now 0\.5"):
        run_agents(changed, tmp_path, seeds=1, controls=False)
