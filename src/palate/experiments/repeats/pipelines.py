"""What is repeated besides stages: rounds, demonstrations and agents, each in a run's directory like any stage.

They say by themselves what is wrong before hours are spent, and what they take; and all their randomness follows from
one seed, so that no source of it can be drawn apart.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from palate.commands import DEMOS, Stage
from palate.errors import RecipeError
from palate.recipe import AgentRecipe, DemoRecipe, RoundsRecipe
from palate.run.directory import Run

_HERE = "palate.experiments.repeats.pipelines"

PIPELINES: dict[str, Stage] = {
    name: Stage(name, help, "", _HERE, recipe, name, function=f"repeat_{name}", makes_policy=False, divides=False)
    for name, help, recipe in (
        ("rounds", "as `palate rounds`", "RoundsRecipe"),
        ("demo", "as `palate demo`", "DemoRecipe"),
        ("agent", "as `palate agent --alone`", "AgentRecipe"),
    )
}
"""By what their recipes call them."""


def repeat_rounds(recipe: RoundsRecipe, run: Run) -> None:
    """All rounds."""
    _rounds(recipe, run.directory).carry_out(run)


def repeat_demo(recipe: DemoRecipe, run: Run) -> None:
    """A whole demonstration; its parts are in its directory as ever."""
    module, function, _ = DEMOS[recipe.which]
    scale = import_module(module).SCALES[recipe.scale]
    settings = {"seed": recipe.seed, "scale": scale, "precision": recipe.precision}
    texts = {"texts": Path(recipe.text)} if recipe.which == "text" else {}
    getattr(import_module(module), function)(run.directory, **settings, **texts)
    run.finish({})


def repeat_agent(recipe: AgentRecipe, run: Run) -> None:
    """One agent, without the controls."""
    import_module("palate.stages.agent.agent").train(recipe, run)


def check(recipe: Any, directory: Path) -> None:
    """Find mistakes before hours are spent, as far as they can be told.

    Args:
        directory: where it will be run.

    Raises:
        RecipeError: it would wait for people, each seed for others.
        PalateError: what its own command would find.
    """
    if isinstance(recipe, RoundsRecipe):
        if recipe.labelers == "people":
            raise RecipeError('rounds with labelers = "people" wait for people in every seed: run `palate rounds`')
        _rounds(recipe, directory).check()
    elif isinstance(recipe, AgentRecipe):
        if recipe.reward == "comparisons" and recipe.labels.teacher == "people":
            raise RecipeError('an agent whose teacher is "people" waits for them in every seed: run `palate agent`')
        import_module("palate.stages.agent.environments").Environments(
            recipe.environment, 1, seed=recipe.seed, purpose="training"
        )
    elif recipe.which == "text" and not Path(recipe.text).exists():
        raise RecipeError(f"text = {recipe.text!r}: there is no such file or directory")


def takes(recipe: Any, directory: Path) -> str:
    """What it will take, in its own words."""
    if isinstance(recipe, RoundsRecipe):
        return str(_rounds(recipe, directory).estimate().splitlines()[-1])
    return "not timed before one has run"


def _rounds(recipe: RoundsRecipe, directory: Path) -> Any:
    return import_module("palate.experiments.rounds.iterate").Rounds(recipe, directory)
