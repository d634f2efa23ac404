"""Recipes that sample, score and learn from the score."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from palate.recipe.rewarding import Reward
from palate.recipe.sections import (
    Data,
    Engine,
    Fraction,
    NonNegative,
    Optimizer,
    Positive,
    PositiveInt,
    PromptsLeftOut,
    RLOptimizer,
    RolloutSeeds,
    Sampling,
    Section,
    StageRecipe,
    TwoOrMore,
)


class RolloutRecipe(StageRecipe):
    """What every stage has that learns from what the policy says itself."""

    seeds: RolloutSeeds = Field(RolloutSeeds(), description="Of single sources of randomness.")
    prompts: Data = Field(description="Prompts to sample responses for.")
    rewards: tuple[Reward, ...] = Field((), description="Summed with their weights.")
    max_left_out: PromptsLeftOut = 0.0
    sampling: Sampling = Field(Sampling(), description="Sampling.")
    engine: Engine = Field(Engine(), description="What draws them.")
    steps: PositiveInt = Field(20, description="Rollouts, each followed by its updates.")
    prompts_per_step: PositiveInt = Field(
        16, description="Prompts in a rollout; different ones, but where a pass over them ends."
    )
    responses_per_prompt: PositiveInt = Field(4, description="Responses sampled for each (K).")
    epochs: PositiveInt = Field(1, description="Passes over a rollout.")
    minibatches: PositiveInt = Field(1, description="Optimizer steps in a pass.")
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer of the policy.")

    @model_validator(mode="after")
    def _fits_together(self) -> RolloutRecipe:
        if self.sampling.max_new_tokens >= self.max_length:
            raise ValueError(
                f"sampling.max_new_tokens = {self.sampling.max_new_tokens} leaves no room for a prompt within "
                f"max_length = {self.max_length}"
            )
        if self.minibatches > self.prompts_per_step:
            raise ValueError("minibatches are made of whole prompts: at most prompts_per_step of them")
        return self


class ScoredRecipe(RolloutRecipe):
    """What every stage has in which a reward judges what the policy says."""

    reference: str = Field(
        "", description="Model that the policy is held against: the KL is to it; empty: the one that it starts from."
    )
    rewards: tuple[Reward, ...] = Field(min_length=1, description="Summed with their weights.")
    truncation_score: float | None = Field(None, description="Score of a response without a stop token.")
    max_negative_kl: Positive = Field(0.5, description="A KL below minus this, three steps in a row, ends the run.")
    min_entropy: NonNegative = Field(
        0.02, description="Entropy per token below this, three steps in a row, ends the run."
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> ScoredRecipe:
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("every reward has weight 0: there is nothing to learn")
        return self


class Overoptimization(Section):
    """Signs that the policy has gone past where more of its reward does good, looked for as it goes."""

    held_out: tuple[str, ...] = Field(
        (),
        description="Reward models that the policy does not learn from, best from other labelers or other judgements; "
        "of several the mean of all heads. The sign: it falls while the reward rises.",
    )
    max_distance: Positive | None = Field(
        None,
        description="The root of the KL at which gold is highest, as `palate overoptimize` fits it. The sign: more.",
    )
    every: TwoOrMore = Field(4, description="Steps whose means are compared with those of as many earlier ones.")
    sureness: Positive = Field(
        4.0, description="Standard errors by which means must differ to count; fewer warn earlier, and for nothing."
    )


class RLRecipe(ScoredRecipe):
    """What every policy gradient has."""

    kl_coef: NonNegative = Field(0.05, description="Weight of the per-token KL to the reference inside the reward.")
    one_step_ahead: bool = Field(
        False, description="Draw each step's responses with the weights of the step before, while that one learns."
    )
    optimizer: RLOptimizer = Field(RLOptimizer(), description="Optimizer of the policy.")
    overoptimization: Overoptimization | None = Field(
        None,
        description="Warn when the signs say that the peak is passed, and keep the policy from before; absent: nobody "
        "looks.",
    )

    @model_validator(mode="after")
    def _something_to_see(self) -> RLRecipe:
        settings = self.overoptimization
        learned = {name for reward in self.rewards for name in reward.models}
        if settings is not None and (both := sorted(learned & set(settings.held_out))):
            raise ValueError(f"overoptimization.held_out: the policy learns from {both[0]}, which is then not held out")
        ensembles = any(len(reward.models) > 1 for reward in self.rewards)
        if settings is not None and not (settings.held_out or settings.max_distance or ensembles):
            raise ValueError("overoptimization has nothing to look at: name held_out, max_distance, or an ensemble")
        return self


class Pretraining(Section):
    """The pretraining gradient mixed into PPO (PPO-ptx)."""

    data: Data = Field(description="Raw text.")
    coef: Positive = Field(1.0, description="Weight of the language-model loss in the combined gradient (gamma).")
    sequences_per_step: PositiveInt = Field(8, description="Sequences of text beside each optimizer step.")
    sequence_length: TwoOrMore = Field(128, description="Tokens of each.")


class PPORecipe(RLRecipe):
    """Proximal policy optimisation, as InstructGPT used it."""

    stage: Literal["ppo"] = "ppo"
    value_model: str = Field("", description="Model the value model starts from; empty: the first reward model.")
    kl_target: Positive | None = Field(None, description="Adapt `kl_coef` towards this KL per sequence (nats).")
    kl_horizon: PositiveInt = Field(500, description="Sequences over which the adaptation works.")
    whiten_rewards: bool = Field(False, description="Scale rewards to unit variance, keeping their mean.")
    clip_range: Positive = Field(0.2, description="Clipping of the probability ratio.")
    clip_range_value: NonNegative = Field(0.2, description="Clipping of the value's change; 0 leaves it free.")
    gamma: Fraction = Field(1.0, description="Discount.")
    gae_lambda: Fraction = Field(0.95, description="Lambda of generalised advantage estimation.")
    value_warmup: int = Field(0, ge=0, description="First steps in which only the value model learns.")
    pretraining: Pretraining | None = Field(None, description="Pretraining gradient; absent: plain PPO.")
    value_optimizer: RLOptimizer = Field(RLOptimizer(), description="Optimizer of the value model.")

    @model_validator(mode="after")
    def _works_together(self) -> PPORecipe:
        if self.value_warmup >= self.steps:
            raise ValueError(
                f"value_warmup = {self.value_warmup} leaves none of {self.steps} steps in which the policy learns"
            )
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("kl_target adapts kl_coef by factors, and 0 stays 0: set kl_coef above 0")
        num_sequences = self.prompts_per_step * self.responses_per_prompt
        if self.kl_target is not None and num_sequences >= 5 * self.kl_horizon:
            raise ValueError(
                f"kl_horizon = {self.kl_horizon} is too short for {num_sequences} responses a step: raise it above "
                f"{num_sequences // 5}"
            )
        if not self.value_model and not any(reward.models for reward in self.rewards):
            raise ValueError("no reward model to start the value model from: set value_model to a model's directory")
        return self


class ReinforceRecipe(RLRecipe):
    """REINFORCE and its descendants; as it comes with the leave-one-out baseline (RLOO)."""

    stage: Literal["reinforce"] = "reinforce"
    baseline: Literal["none", "batch_mean", "leave_one_out", "group_mean", "group_normalized"] = Field(
        "leave_one_out",
        description="What a response is compared with: nothing, the mean of the rollout, of the other responses to its "
        "prompt (RLOO), of all of them (Dr. GRPO), or that in units of their spread (GRPO).",
    )
    surrogate: Literal["token", "sequence", "weight"] = Field(
        "token",
        description="What `clip_range` clips: the probability ratio of a token (PPO), of the whole response (GSPO), or "
        "the weight of a token, which still learns (CISPO).",
    )
    clip_range: Positive | None = Field(None, description="Clipping of the ratio below 1; absent: nothing is clipped.")
    clip_range_high: Positive | None = Field(None, description="Clipping above 1 (DAPO); absent: as `clip_range`.")
    denominator: Literal["tokens", "sequences", "constant"] = Field(
        "tokens",
        description="The loss is a mean over tokens, over each response's tokens and then responses (GRPO), or a sum "
        "over tokens divided by responses times `max_new_tokens` (Dr. GRPO).",
    )
    kl_loss_coef: NonNegative = Field(
        0.0, description="Weight of the KL to the reference in the loss (k3, GRPO), besides `kl_coef` in the reward."
    )
    max_resamples: int = Field(
        0,
        ge=0,
        description="Rounds in a step in which prompts whose responses all scored the same give way to others (DAPO's "
        "dynamic sampling); 0 keeps them.",
    )

    @model_validator(mode="after")
    def _has_others(self) -> ReinforceRecipe:
        if self.responses_per_prompt < 2 and self.baseline not in ("none", "batch_mean"):
            raise ValueError(f'baseline = "{self.baseline}" needs 2 responses_per_prompt or more')
        if self.max_resamples and self.one_step_ahead:
            raise ValueError("max_resamples draws again within a step, and one_step_ahead a step before: leave one out")
        if self.clip_range_high is not None and self.clip_range is None:
            raise ValueError("clip_range_high clips on one side alone: set clip_range too (1 clips nothing below)")
        return self
