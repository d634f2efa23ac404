"""Recipes that learn from people's judgements: rankings and thumbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from palate.recipe.sections import (
    Count,
    Data,
    Holdout,
    NonNegative,
    Optimizer,
    Positive,
    PositiveInt,
    Section,
    Seeds,
    StageRecipe,
    TwoOrMore,
)

ORDER = "preference"
"""The name of an objective that was given none."""


class Objective(Section):
    """One thing that a reward model is to tell, with heads of its own on the trunk that all share."""

    name: str = Field(
        ORDER, min_length=1, description="By which the report, and the `rewards` of other recipes, call it."
    )
    learns: Literal["rankings", "ratings", "both"] = Field(
        "rankings", description="From the order of responses, from the ratings of each, or from both."
    )
    flag: str = Field(
        "", description="A flag of the labelers' instead: how likely they are to set it on a response is learned."
    )
    data: Data | None = Field(None, description="Its own judgements; absent: those of the recipe.")
    tag: str = Field("", description="Learn only from prompts that have this tag.")
    value: str = Field("", description="And this value of it.")

    @model_validator(mode="after")
    def _one_thing(self) -> Objective:
        if self.flag and self.learns != "rankings":
            raise ValueError("an objective learns a flag, or rankings and ratings: leave out one of flag and learns")
        if bool(self.tag) != bool(self.value):
            raise ValueError("an objective by tag needs both: a tag, and the value of it")
        return self


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


class RewardSeeds(Seeds):
    """The same of a reward model."""

    labelers: Count | None = Field(None, description="Of which labelers `draw_labelers` draws.")


class RewardRecipe(StageRecipe):
    """A reward model from rankings, and from ratings and flags."""

    stage: Literal["reward"] = "reward"
    seeds: RewardSeeds = Field(RewardSeeds(), description="Of single sources of randomness.")
    data: Data = Field(description="Rankings.")
    objectives: tuple[Objective, ...] = Field(
        (Objective(),), min_length=1, description="What to learn; absent: the order of the rankings alone."
    )
    heads: PositiveInt = Field(
        1, description="Heads of each objective: an ensemble that disagrees where there is little to learn from."
    )
    bootstrap: bool = Field(
        True, description="Each of several heads meets the prompts of a sample of its own, drawn with replacement."
    )
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the rankings; more than one overfits quickly.")
    batch_responses: TwoOrMore = Field(32, description="Distinct responses per step; those of a prompt stay together.")
    tie: Literal["half", "skip"] = Field("half", description="A tie is half a win for either, or left out.")
    margin_scale: NonNegative = Field(0.0, description="Margin in the loss per unit of stated preference strength.")
    labeler_weights: Mapping[str, NonNegative] = Field(
        {}, description="Weight of a labeler's rankings; 1 if not named."
    )
    draw_labelers: bool = Field(
        False,
        description="Learn from as many labelers as there are, drawn with replacement: who is drawn twice counts "
        "twice, who is not drawn teaches nothing. `palate repeat` finds by it what the choice of labelers does.",
    )
    normalize_on: Literal["train", "validation"] = Field(
        "train", description="Responses on which the mean reward is made zero and its spread one."
    )
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer.")

    @model_validator(mode="after")
    def _all_are_used(self) -> RewardRecipe:
        names = [objective.name for objective in self.objectives]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two objectives are called {twice!r}: give each a name of its own")
        if all(objective.data for objective in self.objectives):
            raise ValueError("every objective has data of its own, so nothing learns from data: let one leave it out")
        return self


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
