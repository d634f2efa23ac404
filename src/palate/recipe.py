"""Recipes: TOML in, frozen models out.

A recipe is one TOML file for one stage. An unknown key is an error that names its nearest neighbour;
``--set a.b=value`` overrides one key; what a run really used is written back to its directory. Every field's
description is its documentation: the reference page is generated from this file.

Relative paths in a recipe are relative to the directory the command runs in.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from palate.errors import RecipeError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    """Where records come from."""

    path: str = Field(description="A file, or several joined by commas; `.gz` is read as it is.")
    format: str = Field("auto", description="An importer's name (see `palate data import --help`), or `auto`.")
    fields: Mapping[str, str] = Field(
        {},
        description="For `pairs`: which column, or text with {columns}, is `prompt`, `a`, `b`, `preferred`, ....",
    )
    tags: tuple[str, ...] = Field((), description="Columns to keep as tags of the prompt; `a.b` is one within another.")
    ignore: tuple[str, ...] = Field((), description="Columns to leave out although they may matter; `a.b` likewise.")
    verdicts: Mapping[str, str] = Field(
        {},
        description="What the file's own words of judgement mean: `a`, `b`, `tie`, `both_bad`, `both_good`, `up`, "
        "`down` or `skip`.",
    )
    join: Mapping[str, str] = Field(
        {}, description="A column, and another file whose rows are added to those with the same value of it."
    )
    limit: int = Field(0, ge=0, description="Use at most this many records, chosen by hash of the prompt; 0 uses all.")


class Holdout(Section):
    """Which prompts are kept for validation. Always whole prompts, never single comparisons."""

    fraction: Fraction = Field(0.1, description="Share of prompts, chosen by hash of the prompt.")
    tag: str = Field("", description="Hold out by this tag instead of by hash.")
    value: str = Field("", description="Prompts whose tag has this value are held out.")


class Optimizer(Section):
    """AdamW with a warm-up and a linear or cosine decay."""

    learning_rate: Positive = Field(2e-5, description="Peak learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Shape after the warm-up.")
    warmup: Fraction = Field(0.05, description="Share of all optimizer steps spent warming up.")
    weight_decay: NonNegative = Field(0.0, description="Decoupled weight decay.")
    beta1: Fraction = Field(0.9, description="Adam's first decay rate.")
    beta2: Fraction = Field(0.99, description="Adam's second decay rate.")
    epsilon: Positive = Field(1e-8, description="Adam's epsilon.")
    max_grad_norm: NonNegative = Field(1.0, description="Gradients are scaled down to this norm; 0 leaves them.")


class RLOptimizer(Optimizer):
    """The same with the values that RL needs."""

    learning_rate: Positive = Field(1e-5, description="Peak learning rate.")
    warmup: Fraction = Field(0.0, description="Share of all optimizer steps spent warming up.")
    beta2: Fraction = Field(0.95, description="Adam's second decay rate.")
    epsilon: Positive = Field(1e-5, description="Adam's epsilon; the usual 1e-8 gives six times the early KL.")


class Sampling(Section):
    """How responses are drawn: always from the full distribution, at one temperature."""

    temperature: Positive = Field(0.7, description="Divides the logits; part of the policy wherever it is used.")
    max_new_tokens: PositiveInt = Field(48, description="A response without a stop token by then counts as truncated.")
    num_slots: PositiveInt = Field(64, description="Sequences decoded side by side.")


class StageRecipe(Section):
    """What every training stage has."""

    stage: str = Field("", description="The stage's name; may be left out.")
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field(
        "smollm2-135m", description="Model to start from: a path, a Hugging Face name, or one of the zoo."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products; weights stay in fp32.")
    frozen_layers: int = Field(0, ge=0, description="Leave the embeddings and this many lower layers as they are.")
    checkpoint_every: PositiveInt = Field(20, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="Older ones are deleted.")
    max_length: PositiveInt = Field(
        1024, description="Longest prompt + response in tokens; longer rows are left out and counted."
    )
    microbatch_tokens: PositiveInt = Field(4096, description="Tokens in one forward and backward pass.")


class SFTRecipe(StageRecipe):
    """Supervised fine-tuning on demonstrations."""

    stage: Literal["sft"] = "sft"
    data: Data = Field(description="Demonstrations.")
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the data.")
    batch_size: PositiveInt = Field(16, description="Demonstrations per optimizer step.")
    optimizer: Optimizer = Field(Optimizer(), description="Optimizer.")


class RewardRecipe(StageRecipe):
    """A reward model from rankings."""

    stage: Literal["reward"] = "reward"
    data: Data = Field(description="Rankings.")
    holdout: Holdout = Field(Holdout(), description="Validation prompts.")
    epochs: PositiveInt = Field(1, description="Passes over the rankings; more than one overfits quickly.")
    batch_responses: PositiveInt = Field(
        32, description="Distinct responses per step; those of a prompt stay together."
    )
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
    batch_responses: PositiveInt = Field(
        32, description="Distinct responses per step; those of a prompt stay together."
    )
    beta: Positive = Field(0.1, description="Strength of the pull to the reference.")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.0, description="Assumed share of wrong labels.")
    temperature: Positive = Field(0.7, description="Temperature of the policy whose log-probabilities are compared.")
    optimizer: Optimizer = Field(Optimizer(learning_rate=5e-6), description="Optimizer.")


class Reward(Section):
    """One term of the reward."""

    model: str = Field("", description="A trained reward model's directory.")
    function: str = Field("", description="A Python function `package.module:name` of (prompts, responses).")
    length: Positive | None = Field(None, description="Minus the number of words above this one, in tens.")
    weight: float = Field(1.0, description="Weight in the sum.")

    @model_validator(mode="after")
    def _one_kind(self) -> Reward:
        if sum(bool(kind) for kind in (self.model, self.function, self.length)) != 1:
            raise ValueError("name exactly one of model, function, length")
        return self


class RLRecipe(StageRecipe):
    """What every sampling stage has."""

    prompts: Data = Field(description="Prompts to sample responses for.")
    rewards: tuple[Reward, ...] = Field(min_length=1, description="Summed with their weights.")
    sampling: Sampling = Field(Sampling(), description="Sampling.")
    steps: PositiveInt = Field(20, description="Rollouts, each followed by its updates.")
    prompts_per_step: PositiveInt = Field(
        16, description="Prompts in a rollout; different ones, but where a pass over them ends."
    )
    responses_per_prompt: PositiveInt = Field(4, description="Responses sampled for each (K).")
    truncation_score: float | None = Field(None, description="Score of a response without a stop token.")
    kl_coef: NonNegative = Field(0.05, description="Weight of the per-token KL to the reference inside the reward.")
    max_negative_kl: Positive = Field(0.5, description="A KL below minus this, three steps in a row, ends the run.")
    min_entropy: NonNegative = Field(
        0.02, description="Entropy per token below this, three steps in a row, ends the run."
    )


class Pretraining(Section):
    """The pretraining gradient mixed into PPO (PPO-ptx)."""

    data: Data = Field(description="Raw text.")
    coef: Positive = Field(1.0, description="Weight of the language-model loss in the combined gradient (gamma).")
    sequences_per_step: PositiveInt = Field(8, description="Sequences of text beside each optimizer step.")
    sequence_length: PositiveInt = Field(128, description="Tokens of each.")


class PPORecipe(RLRecipe):
    """Proximal policy optimisation, as InstructGPT used it."""

    stage: Literal["ppo"] = "ppo"
    value_model: str = Field("", description="Model the value model starts from; empty: the first reward model.")
    kl_target: float | None = Field(None, description="Adapt `kl_coef` towards this KL per sequence (nats).")
    kl_horizon: PositiveInt = Field(500, description="Sequences over which the adaptation works.")
    whiten_rewards: bool = Field(False, description="Scale rewards to unit variance, keeping their mean.")
    epochs: PositiveInt = Field(1, description="Passes over a rollout.")
    minibatches: PositiveInt = Field(1, description="Optimizer steps in a pass.")
    clip_range: Positive = Field(0.2, description="Clipping of the probability ratio.")
    clip_range_value: NonNegative = Field(0.2, description="Clipping of the value's change; 0 leaves it free.")
    gamma: Fraction = Field(1.0, description="Discount.")
    gae_lambda: Fraction = Field(0.95, description="Lambda of generalised advantage estimation.")
    value_warmup: int = Field(0, ge=0, description="First steps in which only the value model learns.")
    pretraining: Pretraining | None = Field(None, description="Pretraining gradient; absent: plain PPO.")
    optimizer: RLOptimizer = Field(RLOptimizer(), description="Optimizer of the policy.")
    value_optimizer: RLOptimizer = Field(RLOptimizer(), description="Optimizer of the value model.")

    @model_validator(mode="after")
    def _no_empty_minibatch(self) -> PPORecipe:
        if self.minibatches > self.prompts_per_step:
            raise ValueError("minibatches are made of whole prompts: at most prompts_per_step of them")
        return self


class ReinforceRecipe(RLRecipe):
    """REINFORCE with the leave-one-out baseline (RLOO)."""

    stage: Literal["reinforce"] = "reinforce"
    optimizer: RLOptimizer = Field(RLOptimizer(), description="Optimizer.")


class BestOfNRecipe(Section):
    """Best of n: no training, the reward model picks."""

    stage: Literal["best_of_n"] = "best_of_n"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field("smollm2-135m", description="Model to sample from.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    prompts: Data = Field(description="Prompts to sample responses for.")
    rewards: tuple[Reward, ...] = Field(min_length=1, description="Summed with their weights.")
    sampling: Sampling = Field(Sampling(), description="Sampling.")
    n: PositiveInt = Field(8, description="Responses to choose from.")


class SampleRecipe(Section):
    """K responses per prompt, to be ranked."""

    stage: Literal["sample"] = "sample"
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    model: str = Field("smollm2-135m", description="Model to sample from.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    prompts: Data = Field(description="Prompts to sample responses for.")
    sampling: Sampling = Field(Sampling(), description="Sampling.")
    responses_per_prompt: PositiveInt = Field(4, description="Responses sampled for each (K).")


class Taste(Section):
    """A hidden taste and the labelers who share it more or less."""

    function: str = Field("palate.feedback.tastes:sunny_and_to_the_point", description="Judge of (prompts, responses).")
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
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products.")
    prompts: Data = Field(description="Held-out prompts.")
    judge: Reward = Field(description="Scores a response; the higher score wins.")
    sampling: Sampling = Field(Sampling(), description="Sampling, the same for both.")
    responses_per_prompt: PositiveInt = Field(2, description="Responses of each model to each prompt.")


RecipeT = TypeVar("RecipeT", bound=Section)


def load_recipe(kind: type[RecipeT], path: Path | str, overrides: Sequence[str] = ()) -> RecipeT:
    """Read a recipe and apply ``a.b=value`` overrides.

    Raises:
        RecipeError: a missing file, broken TOML, an unknown key (with the nearest one) or a bad value.
    """
    path = Path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; `recipes/` has one for every method") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(kind, tree, where=str(path))


def parse_recipe(kind: type[RecipeT], tree: Mapping[str, Any], *, where: str = "recipe") -> RecipeT:
    """Validate a tree of plain values; every problem is one line of the error."""
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        lines = [f"{where}: {_explain(kind, problem)}" for problem in error.errors()]
        raise RecipeError("\n".join(lines)) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write it as key=value, for example --set optimizer.learning_rate=1e-5")
    *parents, last = key.strip().split(".")
    node: Any = tree
    for part in parents:
        node = node[int(part)] if isinstance(node, list) and part.isdigit() else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {override}: {part} is not a section")
    value = _toml_value(text.strip())
    if isinstance(node, list):
        raise RecipeError(f"--set {override}: name a key inside entry number 0, 1, ... of {parents[-1]}")
    node[last] = value


def _toml_value(text: str) -> Any:
    """A TOML value if it reads as one, else the text itself, so that strings need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(kind: type[Section], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_at(kind, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {location!r}; {hint}"
    if problem["type"] == "missing":
        return f"{location!r} is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{location!r}: {message}" if location else message


def _keys_at(kind: Any, location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the section that ``location`` points into."""
    for part in location:
        if isinstance(part, str):
            kind = _section_of(kind.model_fields[part].annotation)
    return list(kind.model_fields)


def _section_of(annotation: Any) -> Any:
    """The Section inside ``Section | None`` or ``tuple[Section, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(section for part in get_args(annotation) if (section := _section_of(part)) is not None)
