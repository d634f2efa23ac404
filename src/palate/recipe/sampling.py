"""Recipes that draw responses and train nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from palate.recipe.rewarding import Reward
from palate.recipe.sections import (
    ChatTemplate,
    Data,
    Engine,
    MicrobatchTokens,
    PositiveInt,
    PromptsLeftOut,
    Sampling,
    Section,
)


class BestOfNRecipe(Section):
    """Best of n: no training, the reward model picks."""

    stage: Literal["best_of_n"] = "best_of_n"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field("smollm2-135m", description="Model to sample from.")
    chat_template: ChatTemplate = ""
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    prompts: Data = Field(description="Prompts to sample responses for.")
    rewards: tuple[Reward, ...] = Field(min_length=1, description="Summed with their weights.")
    max_left_out: PromptsLeftOut = 0.0
    sampling: Sampling = Field(Sampling(), description="Sampling.")
    engine: Engine = Field(Engine(), description="What draws them.")
    n: PositiveInt = Field(8, description="Responses to choose from.")
    microbatch_tokens: MicrobatchTokens = 4096


class SampleRecipe(Section):
    """K responses per prompt, to be ranked."""

    stage: Literal["sample"] = "sample"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field("smollm2-135m", description="Model to sample from.")
    chat_template: ChatTemplate = ""
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    prompts: Data = Field(description="Prompts to sample responses for.")
    max_left_out: PromptsLeftOut = 0.0
    sampling: Sampling = Field(Sampling(), description="Sampling.")
    engine: Engine = Field(Engine(), description="What draws them.")
    responses_per_prompt: PositiveInt = Field(4, description="Responses sampled for each (K).")
