"""Recipes that learn from rankings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from palate.recipe.sections import Data, Holdout, NonNegative, Optimizer, Positive, PositiveInt, StageRecipe, TwoOrMore


class RewardRecipe(StageRecipe):
    """A reward model from rankings."""

    stage: Literal["reward"] = "reward"
    data: Data = Field(description="Rankings.")
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the rankings; more than one overfits quickly.")
    batch_responses: TwoOrMore = Field(32, description="Distinct responses per step; those of a prompt stay together.")
    tie: Literal["half", "skip"] = Field("half", description="A tie is half a win for either, or left out.")
    margin_scale: NonNegative = Field(0.0, description="Margin in the loss per unit of stated preference strength.")
    labeler_weights: Mapping[str, NonNegative] = Field(
        {}, description="Weight of a labeler's rankings; 1 if not named."
    )
    normalize_on: Literal["train", "validation"] = Field(
        "train", description="Responses on which the mean reward is made zero and its spread one."
    )
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer.")


class DPORecipe(StageRecipe):
    """Direct preference optimisation: no reward model, no sampling."""

    stage: Literal["dpo"] = "dpo"
    data: Data = Field(description="Rankings; every ordered pair of one is used.")
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the pairs.")
    batch_responses: TwoOrMore = Field(32, description="Distinct responses per step; those of a prompt stay together.")
    beta: Positive = Field(0.1, description="Strength of the pull to the reference.")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.0, description="Assumed share of wrong labels.")
    temperature: Positive = Field(0.7, description="Temperature of the policy whose log-probabilities are compared.")
    optimizer: Optimizer = Field(Optimizer(learning_rate=5e-6), description="Optimizer.")
