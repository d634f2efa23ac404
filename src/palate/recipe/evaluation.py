"""Recipes that measure: a win rate, a report card, methods compared; and the taste of simulated labelers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from palate.recipe.ai_feedback import Endpoint, PrinciplesPerPair, Samples, Verdict
from palate.recipe.rewarding import Reward
from palate.recipe.sections import (
    ChatTemplate,
    Count,
    Data,
    Engine,
    MicrobatchTokens,
    NonNegative,
    PositiveInt,
    PromptsLeftOut,
    Sampling,
    Section,
)


class Taste(Section):
    """A hidden taste and the labelers who share it more or less."""

    function: str = Field(
        "palate.simulated.tastes:sunny_and_to_the_point", description="Judge of (prompts, responses)."
    )
    agreement: Annotated[float, Field(gt=0.5, le=1)] = Field(0.8, description="How often two labelers agree on a pair.")
    labelers: PositiveInt = Field(5, description="Simulated labelers.")
    skill_spread: NonNegative = Field(0.3, description="Spread of skill between them; 0 makes them alike.")
    labels_per_prompt: PositiveInt = Field(2, description="Labelers who rank each prompt's responses.")
    tie_margin: NonNegative = Field(0.0, description="Responses closer than this in perceived quality are tied.")


class WinRateRecipe(Section):
    """One model against another on held-out prompts, by a judge that training never saw."""

    stage: Literal["win_rate"] = "win_rate"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field(description="The model in question.")
    baseline: str = Field(description="The model it is compared with.")
    chat_template: ChatTemplate = ""
    baseline_chat_template: str = Field("", description="The same for the baseline.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    prompts: Data = Field(description="Held-out prompts.")
    judge: Reward = Field(description="Scores a response; the higher score wins.")
    max_left_out: PromptsLeftOut = 0.0
    sampling: Sampling = Field(Sampling(), description="Sampling, the same for both.")
    engine: Engine = Field(Engine(), description="What draws them.")
    responses_per_prompt: PositiveInt = Field(2, description="Responses of each model to each prompt.")
    microbatch_tokens: MicrobatchTokens = 4096


ProtocolName = Literal[
    "win_rate",
    "judgements",
    "arc_easy",
    "arc_challenge",
    "piqa",
    "hellaswag",
    "openbookqa",
    "winogrande",
    "boolq",
    "commonsense_qa",
    "lambada",
    "held_out_text",
    "truthfulqa",
    "hallucination",
    "gsm8k",
    "form",
    "abstention",
    "flattery",
    "refusals",
    "memorised",
]
"""As in `evals/protocols/all_protocols.py`."""


class CardSection(Section):
    """One thing that is measured."""

    protocol: ProtocolName = Field(description="What is asked, and how answers are counted.")
    path: str = Field(description="A file of questions, passages, documents or prompts; see the guide for its form.")
    limit: Count = Field(
        0, description="Items, chosen by the seed; 0: all of them, or in the quick form as many as the protocol says."
    )
    control: str = Field(
        "", description="Of `memorised`: texts like those of `path`, which the model was trained on, that it was not."
    )

    @model_validator(mode="after")
    def _controlled(self) -> CardSection:
        if (self.protocol == "memorised") != bool(self.control):
            raise ValueError("control: `memorised` needs a file of texts that nobody trained on, and no other has one")
        return self


class CardJudge(Reward):
    """Of a win rate: what scores each response by itself; or, with `endpoint`, a model that compares every two."""

    model: str = Field(
        "", description="A trained reward model's directory; with an endpoint, what the model is called there."
    )
    endpoint: Endpoint | None = Field(
        None,
        description="Where a model is asked which of two responses is better, in both orders, as by `palate judge`.",
    )
    constitution: str = Field("", description="Of such a model: the file of principles that it goes by.")
    principles_per_pair: PrinciplesPerPair = 1
    verdict: Verdict = "same"
    samples: Samples = 0
    sampling: Sampling = Field(Sampling(), description="How they are drawn.")

    @model_validator(mode="after")
    def _here_or_there(self) -> CardJudge:
        if self.endpoint is None:
            own = ("constitution", "principles_per_pair", "verdict", "samples", "sampling")
            if strange := [name for name in own if getattr(self, name) != type(self).model_fields[name].default]:
                raise ValueError(f"{strange[0]} is of a model at an endpoint, and there is none")
            return self
        if not self.model or not self.constitution:
            raise ValueError("an endpoint needs a model, as it is called there, and a constitution to go by")
        if self.objective or self.aggregation != "mean" or self.uncertainty_coef != 1 or self.weight != 1:
            raise ValueError(
                "objective, aggregation, uncertainty_coef, weight: an endpoint compares and gives no scores"
            )
        if not self.samples and self.sampling != Sampling():
            raise ValueError("nothing is drawn without samples: set samples, or leave out sampling")
        if self.sampling.num_slots != Sampling().num_slots:
            raise ValueError("sampling.num_slots: how many are drawn side by side is the endpoint's own matter")
        return self


class CardRecipe(Section):
    """One model beside the one before, in every section that is listed: what got better, what got worse, how sure."""

    stage: Literal["card"] = "card"
    seed: int = Field(0, ge=0, description="Of the items that are chosen, of responses, and of intervals.")
    model: str = Field(description="The model in question.")
    baseline: str = Field("", description="The model before; empty: the model's own figures alone.")
    chat_template: ChatTemplate = ""
    baseline_chat_template: str = Field("", description="The same for the baseline.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    form: Literal["quick", "full"] = Field(
        "full", description="`quick`: a few items of each section, always the same ones, and wider intervals."
    )
    sections: Annotated[tuple[CardSection, ...], Field(min_length=1)] = Field(description="What is measured.")
    judge: CardJudge | None = Field(
        None,
        description="Of `win_rate`: scores a response, the higher score wins; or compares two. Training must not have "
        "seen it.",
    )
    reference: str = Field(
        "",
        description="Of `win_rate`: what both began as, to which their KL is measured; empty: the baseline. It has "
        "their vocabulary.",
    )
    reward_model: str = Field(
        "", description="Of `hallucination`: what the policy learned from; does it prefer sound answers?"
    )
    window: Annotated[int, Field(ge=2)] = Field(1024, description="Tokens in a row, of held-out text.")
    sampling: Sampling = Field(Sampling(), description="Of sections in which the models respond.")
    responses_per_prompt: PositiveInt = Field(2, description="Of each model there.")
    microbatch_tokens: MicrobatchTokens = 4096

    @model_validator(mode="after")
    def _each_once(self) -> CardRecipe:
        names = [section.protocol for section in self.sections]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"sections: {', '.join(sorted(twice))} is there twice")
        if (self.judge is not None) != ("win_rate" in names):
            raise ValueError("judge: the section `win_rate` needs one, and nothing else asks it")
        if self.reference and "win_rate" not in names:
            raise ValueError("reference: KL is measured on the responses of `win_rate`, and there is none")
        if self.reward_model and "hallucination" not in names:
            raise ValueError("reward_model: the section `hallucination` asks it, and there is none")
        if not self.baseline and {"win_rate", "judgements"} & set(names):
            raise ValueError("baseline: `win_rate` and `judgements` compare two models")
        return self


class CompareRecipe(Section):
    """What several methods are measured by: the same prompts, judge, baseline and random numbers for all of them."""

    stage: Literal["compare"] = "compare"
    seed: int = Field(0, ge=0, description="Of the responses that are measured; the same for every method and seed.")
    baseline: str = Field(description="What win rates are against and KL is to; `{seed}` stands for the run's seed.")
    baseline_chat_template: str = Field("", description="How its conversations are laid out; empty: its own.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    prompts: Data = Field(description="Held-out prompts.")
    judge: Reward = Field(description="Scores a response; the higher score wins. No method may have learned from it.")
    max_left_out: PromptsLeftOut = 0.0
    sampling: Sampling = Field(Sampling(), description="Sampling, the same for all.")
    responses_per_prompt: PositiveInt = Field(4, description="Responses of each policy to each prompt.")
    points: PositiveInt = Field(
        4, description="Policies of each run that are measured, evenly spaced; the last is one."
    )
    best_of: int = Field(16, ge=0, description="Responses a prompt to draw best of n from, n up to all; 0: none.")
