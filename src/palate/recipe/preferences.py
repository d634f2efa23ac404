"""Recipes that learn from people's judgements: rankings and thumbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from palate.recipe.sections import Data, Holdout, NonNegative, Optimizer, Positive, PositiveInt, StageRecipe, TwoOrMore

PairLoss = Annotated[
    Literal["dpo", "ipo"],
    Field(
        description="`dpo`: the log-likelihood of the choices; `ipo`: the squared distance of each pair's margin from "
        "one half, which a choice that everybody shares does not push on for ever."
    ),
]
Smoothing = Annotated[float, Field(ge=0, lt=0.5, description="Assumed share of wrong labels; with `dpo` alone.")]


def check_smoothing(loss: str, label_smoothing: float) -> None:
    """Raises:
    ValueError: the loss knows no smoothing.
    """
    if label_smoothing and loss != "dpo":
        raise ValueError(f'label_smoothing belongs to loss = "dpo"; loss = "{loss}" does not use it')


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
    """Direct preference optimisation (DPO, IPO): no reward model, no sampling."""

    stage: Literal["dpo"] = "dpo"
    data: Data = Field(description="Rankings; every ordered pair of one is used.")
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the pairs.")
    batch_responses: TwoOrMore = Field(32, description="Distinct responses per step; those of a prompt stay together.")
    loss: PairLoss = "dpo"
    beta: Positive = Field(0.1, description="Strength of the pull to the reference.")
    label_smoothing: Smoothing = 0.0
    temperature: Positive = Field(0.7, description="Temperature of the policy whose log-probabilities are compared.")
    optimizer: Optimizer = Field(Optimizer(learning_rate=5e-6), description="Optimizer.")

    @model_validator(mode="after")
    def _works_together(self) -> DPORecipe:
        check_smoothing(self.loss, self.label_smoothing)
        return self


class KTORecipe(StageRecipe):
    """Kahneman-Tversky optimisation (KTO): from thumbs, each about one response alone."""

    stage: Literal["kto"] = "kto"
    data: Data = Field(description="Thumbs.")
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the thumbs.")
    batch_size: TwoOrMore = Field(
        32, description="Thumbs per optimizer step; what a response has to be better than is estimated over them."
    )
    beta: Positive = Field(0.1, description="Strength of the pull to the reference.")
    desirable_weight: Positive = Field(
        1.0, description="Weight of a thumb up; raise it if there are few of them (lambda_D)."
    )
    undesirable_weight: Positive = Field(
        1.0, description="Weight of a thumb down; raise it if there are few of them (lambda_U)."
    )
    temperature: Positive = Field(0.7, description="Temperature of the policy whose log-probabilities are compared.")
    optimizer: Optimizer = Field(Optimizer(learning_rate=5e-6), description="Optimizer.")
