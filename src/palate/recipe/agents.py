"""The recipe of an agent in an environment that learns from comparisons of clips."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from palate.recipe.sections import (
    Decay,
    Fraction,
    NonNegative,
    Optimizer,
    Positive,
    PositiveInt,
    RLOptimizer,
    Section,
    TwoOrMore,
)

Discount = Annotated[float, Field(gt=0, le=1)]


class Labels(Section):
    """Which clips are compared, how many, and by whom."""

    teacher: Literal["perfect", "mistaken", "noisy", "skipping", "equal", "myopic", "random", "people"] = Field(
        "perfect",
        description="Who compares. Simulated, by the environment's own reward (Lee et al. 2021, arXiv 2111.03026): "
        "without fault; a share of mistakes; noisy where clips are nearly alike; skips what is poor on both sides; "
        "calls near ones equal; short-sighted. `random` knows nothing. `people` are asked, and the run waits for them.",
    )
    budget: PositiveInt = Field(500, description="Comparisons of the whole run, those that are skipped included.")
    clip_length: TwoOrMore = Field(25, description="Steps of a clip; each lies within one episode.")
    ask_every: PositiveInt = Field(5, description="Rollouts between two rounds of questions; the first follows one.")
    first_share: Fraction = Field(0.25, description="Share of the budget that the first round has beforehand.")
    final_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="How many are asked in a round at the end, as a share of those at the beginning."
    )
    choose: Literal["uniform", "disagreement"] = Field(
        "disagreement", description="Pairs by lot, or those about which the reward networks disagree most."
    )
    candidates: PositiveInt = Field(10, description="Pairs that are looked at for each that is chosen so.")
    recent: PositiveInt = Field(10, description="The newest rollouts, from which clips are taken.")
    mistake_rate: Fraction = Field(0.1, description="Share of answers that `mistaken` turns round.")
    rationality: Positive = Field(
        1.0, description="Log-odds of `noisy` for each unit by which the returns of two clips differ."
    )
    threshold: Fraction = Field(
        0.1,
        description="What `skipping` and `equal` take for nothing: this share of the mean return of recent clips, "
        "counted from the lowest of them.",
    )
    discount: Discount = Field(0.9, description="Weight of a step beside the one after it for `myopic`.")
    rankings: str = Field(
        "", description="The file of people's rankings; empty: all `rankings*.jsonl` in the run's directory."
    )


class RewardOptimizer(Optimizer):
    """The same with the values of small networks."""

    learning_rate: Positive = Field(1e-3, description="Peak learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field("constant", description="Shape after the warm-up.")
    warmup: Fraction = Field(0.0, description="Share of all optimizer steps spent warming up.")
    beta2: Decay = Field(0.999, description="Adam's second decay rate.")


class RewardNetworks(Section):
    """An ensemble of small networks that learns from the comparisons what a step is worth."""

    members: PositiveInt = Field(3, description="Networks of the ensemble.")
    hidden_size: PositiveInt = Field(64, description="Width of a layer.")
    layers: PositiveInt = Field(2, description="Hidden layers.")
    updates: PositiveInt = Field(100, description="Optimizer steps after each round of answers.")
    batch_size: PositiveInt = Field(64, description="Comparisons of an optimizer step.")
    bootstrap: bool = Field(True, description="Each network meets a sample of the comparisons of its own.")
    aggregation: Literal["mean", "min", "mean_minus_std", "mean_minus_variance"] = Field(
        "mean", description="One reward from those of the ensemble; all but the mean pay less where they disagree."
    )
    uncertainty_coef: NonNegative = Field(
        1.0, description="Standard deviations, or variances, that such an aggregation takes from the mean."
    )
    optimizer: RewardOptimizer = Field(RewardOptimizer(), description="Optimizer.")


class AgentOptimizer(RLOptimizer):
    """The same with the values of small networks."""

    learning_rate: Positive = Field(1e-3, description="Peak learning rate.")
    beta2: Decay = Field(0.999, description="Adam's second decay rate.")
    max_grad_norm: NonNegative = Field(0.5, description="Gradients are scaled down to this norm; 0 leaves them.")


class AgentRecipe(Section):
    """An agent in a Gymnasium environment that learns by PPO from comparisons of clips of what it did."""

    stage: Literal["agent"] = "agent"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    environment: str = Field(
        "Pendulum-v1", description="Its name in Gymnasium; observations are numbers, episodes have a limit."
    )
    reward: Literal["comparisons", "environment"] = Field(
        "comparisons", description="What the agent learns from: comparisons, or the environment's own reward."
    )
    num_environments: PositiveInt = Field(10, description="Copies that are stepped side by side.")
    steps: PositiveInt = Field(100, description="Rollouts, each followed by its updates.")
    steps_per_rollout: TwoOrMore = Field(200, description="Steps of each copy in a rollout.")
    epochs: PositiveInt = Field(10, description="Passes over a rollout.")
    minibatches: PositiveInt = Field(32, description="Optimizer steps in a pass.")
    hidden_size: PositiveInt = Field(64, description="Width of a layer of policy and value network.")
    layers: PositiveInt = Field(2, description="Hidden layers of each.")
    clip_range: Positive = Field(0.2, description="Clipping of the probability ratio.")
    clip_range_value: NonNegative = Field(0.0, description="Clipping of the value's change; 0 leaves it free.")
    gamma: Fraction = Field(0.9, description="Discount.")
    gae_lambda: Fraction = Field(0.95, description="Lambda of generalised advantage estimation.")
    evaluate_every: PositiveInt = Field(5, description="Rollouts between evaluations by the environment's reward.")
    evaluation_episodes: PositiveInt = Field(20, description="Episodes of an evaluation; the same beginnings in each.")
    final_episodes: PositiveInt = Field(100, description="Episodes of the evaluation at the end, of other beginnings.")
    checkpoint_every: PositiveInt = Field(20, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="Older ones are deleted.")
    labels: Labels = Field(Labels(), description="Comparisons of clips.")
    reward_model: RewardNetworks = Field(RewardNetworks(), description="What learns from them.")
    optimizer: AgentOptimizer = Field(AgentOptimizer(), description="Optimizer of the policy.")
    value_optimizer: AgentOptimizer = Field(AgentOptimizer(), description="Optimizer of the value network.")

    @model_validator(mode="after")
    def _fits_together(self) -> AgentRecipe:
        if self.labels.clip_length > self.steps_per_rollout:
            raise ValueError(
                f"labels.clip_length = {self.labels.clip_length} is longer than a rollout of "
                f"steps_per_rollout = {self.steps_per_rollout}"
            )
        if self.minibatches > self.num_environments * self.steps_per_rollout:
            raise ValueError("minibatches are made of steps: at most num_environments times steps_per_rollout of them")
        return self
