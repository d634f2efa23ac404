"""What recipes are made of: frozen sections that refuse unknown keys, and what every training stage has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
PromptsLeftOut = Annotated[
    Fraction,
    Field(
        description="Largest share of the prompts that may be left out because they leave no room for a response "
        "(`max_new_tokens`), or the chat template cannot hold them; more end the run before its first step."
    ),
]
TwoOrMore = Annotated[int, Field(ge=2)]
AUTO = 0
"""How "auto" is held where a number is expected; nothing is computed before a number has been chosen."""


def _number_or_auto(value: object) -> object:
    if value == "auto":
        return AUTO
    if isinstance(value, str) or value == AUTO:
        raise ValueError('a number above 0, or "auto"')
    return value


NumberOrAuto = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(_number_or_auto),
    PlainSerializer(lambda value: "auto" if value == AUTO else value, return_type=int | str),
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"enum": ["auto"]}]}),
]
MicrobatchTokens = Annotated[
    NumberOrAuto,
    Field(
        description="Tokens in one pass, forward and, where something learns, backward; `auto`: as many as there is "
        "memory for. Results do not depend on it."
    ),
]
ChatTemplate = Annotated[
    str,
    Field(
        description="How conversations are laid out: a family's name such as `chatml`, `llama3` or `qwen3`, or a file; "
        "it is saved with the model that comes out. Empty: the model's own."
    ),
]


def variable_name(name: str, example: str) -> str:
    """The name of a variable of the environment, or nothing.

    Raises:
        ValueError: it is none; what stands there may be the secret, so it is not repeated.
    """
    if name and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise ValueError(f"the name of a variable of the environment, such as {example}, and not what it holds")
    return name


class Section(BaseModel):
    """Frozen; unknown keys are refused, and so are numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """Where records come from."""

    path: str = Field(description="A file, or several joined by commas; `.gz` is read as it is.")
    format: str = Field("auto", description="An importer's name (see `palate data import --help`), or `auto`.")
    fields: Mapping[str, str] = Field(
        {},
        description="For `pairs`: which column, or text with {columns}, is `prompt`, `a`, `b`, `preferred` and so on.",
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

    @model_validator(mode="after")
    def _two_sides(self) -> Holdout:
        if bool(self.tag) != bool(self.value):
            raise ValueError("a holdout by tag needs both: a tag, and the value of it that is held out")
        if not self.tag and not 0 < self.fraction < 1:
            raise ValueError(f"fraction = {self.fraction:g} leaves nothing to train on, or nothing to validate on")
        return self


class Optimizer(Section):
    """AdamW with a warm-up and a linear or cosine decay."""

    learning_rate: Positive = Field(2e-5, description="Peak learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Shape after the warm-up.")
    decay_to: Fraction = Field(0.0, description="Share of the peak that a linear or cosine schedule ends at.")
    warmup: Fraction = Field(0.05, description="Share of all optimizer steps spent warming up.")
    weight_decay: NonNegative = Field(0.0, description="Decoupled weight decay.")
    beta1: Decay = Field(0.9, description="Adam's first decay rate.")
    beta2: Decay = Field(0.99, description="Adam's second decay rate.")
    epsilon: Positive = Field(1e-8, description="Adam's epsilon.")
    max_grad_norm: NonNegative = Field(1.0, description="Gradients are scaled down to this norm; 0 leaves them.")
    state_bits: Literal[32, 8] = Field(
        32,
        description="Bits of a number in Adam's moments; 8 need `palate[bitsandbytes]`, and a quarter of the memory.",
    )


class RLOptimizer(Optimizer):
    """The same with the values that RL needs."""

    learning_rate: Positive = Field(1e-5, description="Peak learning rate.")
    warmup: Fraction = Field(0.0, description="Share of all optimizer steps spent warming up.")
    beta2: Decay = Field(0.95, description="Adam's second decay rate.")
    epsilon: Positive = Field(1e-5, description="Adam's epsilon; the usual 1e-8 gives six times the early KL.")


class Adapter(Section):
    """LoRA: the weights stay, and a change of low rank is learned beside them."""

    rank: PositiveInt = Field(16, description="Rank of the change.")
    alpha: Positive = Field(32.0, description="Its strength: the change is scaled by `alpha / rank`.")
    targets: tuple[str, ...] = Field(
        (), description="Names of the weights of a layer that get one, such as `q_proj`; empty: every one."
    )
    rank_stabilized: bool = Field(
        False, description="Scale by `alpha / sqrt(rank)`, so that higher ranks learn as fast as low ones."
    )
    merge: bool = Field(
        False, description="Write a whole model; otherwise the adapter alone, and which model it belongs to."
    )


class Sampling(Section):
    """How responses are drawn: always from the full distribution, at one temperature."""

    temperature: Positive = Field(0.7, description="Divides the logits; part of the policy wherever it is used.")
    max_new_tokens: PositiveInt = Field(48, description="A response without a stop token by then counts as truncated.")
    num_slots: PositiveInt = Field(64, description="Sequences decoded side by side.")


class Engine(Section):
    """What draws the responses: the network that trains, or servers that are given its weights."""

    kind: Literal["local", "vllm"] = Field(
        "local", description="`local`: the network that trains, in the same process; `vllm`: vLLM servers."
    )
    servers: tuple[str, ...] = Field(
        (), description="Addresses of vLLM servers, such as `http://127.0.0.1:8300`: what `palate engine` prints."
    )
    key_variable: str = Field(
        "", description="Variable of the environment that holds the servers' token. The token is written nowhere."
    )
    weights: str = Field(
        "", description="A folder for weights on their way, which all servers see too. Empty: one of this machine's."
    )
    timeout_s: Positive = Field(600.0, description="Seconds without an answer, after which a request has failed.")
    retries: Count = Field(3, description="How often a request is made again; a server that is gone counts too.")
    patience_s: Positive = Field(300.0, description="Seconds that a server which is gone is waited for.")
    max_ratio: float = Field(
        2.0,
        ge=1,
        description="A token counts by its probability in training over that at the server, at most this many times.",
    )

    @field_validator("servers")
    @classmethod
    def _are_addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            parts = urlsplit(server)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("addresses such as http://127.0.0.1:8300")
            if parts.username or parts.password:
                raise ValueError("no user and no password belong into an address: name a token by key_variable")
        plain = tuple(server.rstrip("/").removesuffix("/v1") for server in servers)
        if twice := [server for server in plain if plain.count(server) > 1]:
            raise ValueError(f"{twice[0]} is there twice")
        return plain

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return variable_name(name, "PALATE_ENGINE_KEY")

    @model_validator(mode="after")
    def _belongs_together(self) -> Engine:
        if self.kind == "vllm" and not self.servers:
            raise ValueError('kind = "vllm" needs servers: addresses, as `palate engine` prints them')
        if self.kind == "local":
            fields = type(self).model_fields
            given = [name for name in fields if name != "kind" and getattr(self, name) != fields[name].default]
            if given:
                raise ValueError(f'{given[0]} is of vLLM servers: set kind = "vllm", or leave it out')
        return self


class Seeds(Section):
    """Seeds of single sources of randomness, so that one varies while others stay; absent: the recipe's `seed`."""

    order: Count | None = Field(
        None, description="Of the order in which data or prompts are met, of minibatches, and of bootstraps."
    )
    initial: Count | None = Field(
        None, description="Of the weights that are drawn to begin with: a new model's, new heads', adapters'."
    )


class RolloutSeeds(Seeds):
    """The same of a stage that samples."""

    sampling: Count | None = Field(None, description="Of the responses that are drawn.")


class Cluster(Section):
    """How a run in several processes is divided among them, and where they are."""

    trainers: PositiveInt = Field(
        1, description="Processes that `palate cluster` starts; under `torchrun` it is its own options that say so."
    )
    engines: Count = Field(
        0,
        description="vLLM servers that `palate cluster` starts beside them to draw the responses, each with as many "
        "cores and GPUs. `[engine]` then names no `servers`.",
    )
    cpus: PositiveInt = Field(1, description="Cores, and threads, of each of them.")
    gpus: int = Field(0, ge=0, le=1, description="GPUs of each of them: one, or none.")
    restarts: Count = Field(
        3, description="How often `palate cluster` starts all of them again after one was lost; then it ends."
    )
    shard: Literal["none", "weights"] = Field(
        "none",
        description="`weights`: each of the processes keeps its part of all weights, gradients "
        "and moments, and is lent the rest layer by layer; `none`: each has all of them, which is faster, and takes "
        "as much memory in each as one process does. In one process it does nothing, and says so.",
    )


class TrainingRecipe(Section):
    """What every stage has in which a model learns, from whatever it learns."""

    stage: str = Field("", description="The stage's name; may be left out.")
    seed: int = Field(0, ge=0, description="All randomness is a function of this number.")
    seeds: Seeds = Field(Seeds(), description="Of single sources of randomness.")
    model: str = Field(
        "smollm2-135m", description="Model to start from: a path, a Hugging Face name, or one of the zoo."
    )
    chat_template: ChatTemplate = ""
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="Matrix products; weights stay in fp32.")
    frozen_layers: int = Field(0, ge=0, description="Leave the embeddings and this many lower layers as they are.")
    adapter: Adapter | None = Field(None, description="Learn adapters; absent: the weights themselves.")
    checkpoint_every: PositiveInt = Field(20, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="Older ones are deleted.")
    microbatch_tokens: MicrobatchTokens = 4096
    recompute_activations: bool = Field(
        False, description="Keep only what is between layers for the gradient and compute the rest again: less memory."
    )
    cluster: Cluster = Field(Cluster(), description="How several processes divide the run, and where they are.")

    @model_validator(mode="after")
    def _engines_have_work(self) -> Self:
        if self.cluster.engines and "engine" not in type(self).model_fields:
            raise ValueError(f"cluster.engines = {self.cluster.engines}: this stage samples nothing; leave it out")
        return self

    def seed_of(self, source: str) -> int:
        """The seed of one source of randomness, a key of ``seeds``."""
        own: int | None = getattr(self.seeds, source)
        return self.seed if own is None else own


class StageRecipe(TrainingRecipe):
    """What every stage has that learns from responses."""

    max_length: PositiveInt = Field(
        1024, description="Longest prompt + response in tokens; longer rows are left out and counted."
    )
    max_left_out: Fraction = Field(
        0.5, description="Largest share of the rows that may be left out; more end the run before its first step."
    )
