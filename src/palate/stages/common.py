"""What several stages do in the same way and no paper has a name for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from palate.errors import RecipeError
from palate.evals.report import Report, stage_report
from palate.lm.batch import Sequences
from palate.lm.model import Model
from palate.randomness import permutation
from palate.recipe import StageRecipe
from palate.run.directory import Run


def prepare(model: Model, recipe: StageRecipe) -> None:
    """Freeze what the recipe says and make every operation repeatable."""
    if recipe.frozen_layers > model.model.shape.num_layers:
        raise RecipeError(
            f"frozen_layers = {recipe.frozen_layers}, but {recipe.model} has {model.model.shape.num_layers} layers"
        )
    model.freeze(recipe.frozen_layers)
    deterministic()


def deterministic() -> None:
    """Same machine, same numbers: a resumed run must end with the same bits.

    A GPU has no repeatable kernel for a few operations (running sums among them); there it warns and goes on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS, before it is first used
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def plan(count: int, batch: int, epochs: int, seed: int, stage: str) -> list[Tensor]:
    """The items of every optimizer step; each epoch is a new permutation, its last step may be smaller."""
    orders = (torch.from_numpy(permutation(count, seed, stage, "order", epoch)) for epoch in range(epochs))
    return [part for order in orders for part in order.split(batch)]


def finish_run(run: Run, numbers: Mapping[str, float | None], *, extra: Callable[[Report], None] | None = None) -> None:
    """Draw the report, with what the stage adds to it; then write the figures and mark the run as finished."""
    title = f"{run.stage}: {run.directory.name}"
    stage_report(run.directory, title=title, numbers=numbers, notes=run.notes, extra=extra)
    run.finish(numbers)


def floats(metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Plain numbers for the log."""
    return {name: float(value) for name, value in metrics.items()}


def at(part: Sequences, *tensors: Tensor) -> list[Tensor]:
    """The rows of [B, T] tensors that belong to a part, as wide as the part."""
    return [tensor[part.rows, : part.mask.shape[1]] for tensor in tensors]
