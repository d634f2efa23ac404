"""Recipes that learn from the policy's own samples without a policy gradient."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from palate.recipe.preferences import PairLoss
from palate.recipe.reinforcement import RolloutRecipe, ScoredRecipe
from palate.recipe.rewarding import Reward
from palate.recipe.sections import Optimizer, Positive, PositiveInt, TwoOrMore


class OnlineDPORecipe(ScoredRecipe):
    """On-policy DPO: rounds of pairs made of what the policy says now."""

    stage: Literal["online_dpo"] = "online_dpo"
    responses_per_prompt: TwoOrMore = Field(4, description="Responses sampled for each (K).")
    pairs: Literal["extremes", "all"] = Field(
        "extremes", description="Of each prompt the best response against the worst, or every pair of different scores."
    )
    loss: PairLoss = "dpo"
    beta: Positive = Field(0.1, description="Strength of the pull to the reference.")
    optimizer: Optimizer = Field(Optimizer(learning_rate=5e-6), description="Optimizer.")


class RAFTRecipe(ScoredRecipe):
    """Reward-ranked fine-tuning (RAFT): the policy learns the best of its own responses."""

    stage: Literal["raft"] = "raft"
    responses_per_prompt: TwoOrMore = Field(8, description="Responses sampled for each (K), of which one is kept.")
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer.")


class DistillRecipe(RolloutRecipe):
    """On-policy distillation: teachers say, token by token, how the policy's own responses should have gone on."""

    stage: Literal["distill"] = "distill"
    teachers: tuple[str, ...] = Field(
        min_length=1, description="Models with the policy's tokens and chat template: paths, names, or of the zoo."
    )
    rewards: tuple[Reward, ...] = Field(
        (), description="Choose each prompt's teacher, by its own answer; needed if there are several, and only then."
    )
    responses_per_prompt: PositiveInt = Field(2, description="Responses sampled for each (K).")
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer.")

    @model_validator(mode="after")
    def _one_is_chosen(self) -> DistillRecipe:
        if len(self.teachers) > 1 and not any(reward.weight for reward in self.rewards):
            raise ValueError("several teachers: name rewards, of a weight other than 0, to choose each prompt's")
        if len(self.teachers) == 1 and self.rewards:
            raise ValueError("one teacher alone teaches every prompt: leave rewards out, or name more teachers")
        return self
