"""Recipes of what runs several stages: rounds of sampling, judging and learning; a demonstration, to be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from palate.recipe.evaluation import Taste
from palate.recipe.sections import ChatTemplate, Data, Fraction, PositiveInt, Sampling, Section

Table = Mapping[str, JsonValue]
"""Keys of another command's recipe."""


class RoundsRecipe(Section):
    """Rounds: the policy answers fresh prompts, the answers are judged, and it learns from the judgements.

    `[sample]`, `[reward]`, `[policy]` and `[evaluation]` are recipes of those commands, without the keys that a round
    fills in: models, data, prompts, sampling, seed, precision and chat templates. So is `[judge]`, whose model is its
    own, without seed and data.
    """

    stage: Literal["rounds"] = "rounds"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number and the round's.")
    model: str = Field("smollm2-135m", description="The first model: where round 1 starts, and what all are held to.")
    chat_template: ChatTemplate = ""
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products; weights stay in fp32.")
    frozen_layers: int = Field(
        0, ge=0, description="Lower layers that stay as they are in every model; a table may say another number."
    )
    rounds: PositiveInt = Field(3, description="Rounds; with `prompts_per_round` more may be asked for later.")
    prompts: Data = Field(description="Fresh prompts, divided over the rounds; no conversation is in two of them.")
    held_out: Data = Field(description="Prompts to measure on; they train nothing, even if they are among the others.")
    prompts_per_round: int = Field(0, ge=0, description="Fresh prompts of each round; 0 divides all of them evenly.")
    sampling: Sampling = Field(Sampling(), description="Sampling: to be judged, to learn, and to be measured.")
    labelers: Literal["simulated", "people", "ai"] = Field(
        "simulated",
        description="Who judges: simulated labelers; people, for whom each round waits; or a model by a constitution, "
        "whose judgements are marked as AI's.",
    )
    taste: Taste = Field(Taste(), description="What simulated labelers like, and how far they agree in each round.")
    least_ranked: Fraction = Field(
        1.0, description="Share of a round's prompts that people must have judged before it goes on."
    )
    judge: Table = Field(
        {}, description="Keys of `palate judge`, where a model judges: which one, and by which constitution."
    )
    labels: Literal["all", "newest"] = Field(
        "all", description="What a round learns from: the judgements of all rounds so far, or its own alone."
    )
    reward_start: Literal["first", "previous"] = Field(
        "first", description="What its reward model starts from: the first model, or the reward model before it."
    )
    kl_reference: Literal["first", "round"] = Field(
        "first", description="What the policy is held against while it learns: the first model, or the round's start."
    )
    control: bool = Field(
        True, description="Beside it as many steps without new labels: round 1's judgements alone, round after round."
    )
    sample: Table = Field({}, description="Keys of `palate sample`.")
    reward: Table = Field({}, description="Keys of `palate reward`.")
    policy: Table = Field(
        description="`stage`, one of `reinforce`, `ppo`, `raft`, `online_dpo` and `dpo`, and keys of its recipe; the "
        "terms of its `rewards` are added to the round's reward model."
    )
    evaluation: Table = Field(
        {}, description="Keys of `palate eval`; without a `judge` it is the simulated labelers' taste itself."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RoundsRecipe:
        is_dpo = self.policy.get("stage") == "dpo"
        if self.labelers != "simulated" and "judge" not in self.evaluation:
            who = "people judge" if self.labelers == "people" else "a model judges"
            raise ValueError(f"{who} in each round, but what is measured needs a judge: name one in [evaluation]")
        # not `model_fields_set`: a recipe that a run wrote down has every key
        if self.labelers != "simulated" and self.taste != Taste():
            raise ValueError('taste belongs to labelers = "simulated": leave one of them out')
        if self.labelers != "people" and self.least_ranked != 1:
            raise ValueError('least_ranked belongs to labelers = "people": others judge whatever can be judged')
        if bool(self.judge) != (self.labelers == "ai"):
            raise ValueError('[judge] and labelers = "ai" go together: say by [judge] which model judges, and by what')
        if is_dpo and self.kl_reference == "first":
            raise ValueError('stage = "dpo" is held against where it starts: set kl_reference = "round"')
        if is_dpo and (self.reward or self.reward_start != "first"):
            raise ValueError('stage = "dpo" learns from judgements alone: leave [reward] and reward_start out')
        return self


class DemoRecipe(Section):
    """A demonstration, as `palate demo` runs it, to be repeated (`palate repeat`)."""

    stage: Literal["demo"] = "demo"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    which: Literal["everyday", "people", "text"] = Field("everyday", description="As in `palate demo WHICH`.")
    scale: Literal["full", "quick", "tiny"] = Field(
        "full", description="`quick`: whether everything works; `tiny`: the same of a random model. Neither means much."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    text: str = Field("", description="Of `text`: a directory of plain text, or a file.")

    @model_validator(mode="after")
    def _fits(self) -> DemoRecipe:
        if (self.which == "text") != bool(self.text):
            raise ValueError('text: the demonstration which = "text" needs it, and no other reads it')
        return self
