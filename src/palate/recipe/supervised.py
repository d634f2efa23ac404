"""Recipes that learn from text as it stands."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from palate.recipe.sections import Data, Holdout, Optimizer, PositiveInt, StageRecipe


class SFTRecipe(StageRecipe):
    """Supervised fine-tuning on demonstrations."""

    stage: Literal["sft"] = "sft"
    data: Data = Field(description="Demonstrations.")
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the data.")
    batch_size: PositiveInt = Field(16, description="Demonstrations per optimizer step.")
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer.")
