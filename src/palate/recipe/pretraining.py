"""The recipe of pretraining: raw text, and a model that is new or goes on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from palate.recipe.sections import (
    Data,
    Decay,
    Fraction,
    NonNegative,
    Optimizer,
    Positive,
    PositiveInt,
    Sampling,
    Section,
    TrainingRecipe,
)

Preset = Literal["1m", "5m", "10m", "25m", "50m", "100m", "350m", "1b"]


class Vocabulary(Section):
    """The tokenizer of a new model: byte-level BPE, trained on the documents that it learns from."""

    model: str = Field("", description="A model whose tokenizer is used as it is; empty: one is trained.")
    size: Annotated[int, Field(ge=259)] = Field(
        4096, description="Tokens, three special ones included; with 259 every byte is a token and nothing is merged."
    )


class Architecture(Section):
    """The shape of a new model, which is Llama's: a preset, and numbers that differ from it."""

    preset: Preset = Field("5m", description="About so many weights with a vocabulary of 4,096.")
    num_layers: PositiveInt | None = Field(None, description="Layers; absent, here and below: the preset's.")
    num_heads: PositiveInt | None = Field(None, description="Attention heads of a layer.")
    num_kv_heads: PositiveInt | None = Field(None, description="Of keys and values; fewer, if heads share them.")
    hidden_size: PositiveInt | None = Field(None, description="Width of the residual stream.")
    intermediate_size: PositiveInt | None = Field(None, description="Width inside the gated linear units.")
    tie_embeddings: bool = Field(True, description="One matrix for embeddings and unembedding.")


class PretrainOptimizer(Optimizer):
    """The same with the values of pretraining."""

    learning_rate: Positive = Field(1e-3, description="Peak learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field("cosine", description="Shape after the warm-up.")
    decay_to: Fraction = Field(0.1, description="Share of the peak that a linear or cosine schedule ends at.")
    weight_decay: NonNegative = Field(0.1, description="Decoupled weight decay.")
    beta2: Decay = Field(0.99, description="Adam's second decay rate.")


class PretrainRecipe(TrainingRecipe):
    """Pretraining: next-token prediction on documents."""

    stage: Literal["pretrain"] = "pretrain"
    model: str = Field("", description="Model to continue from; empty: a new one.")
    architecture: Architecture = Field(Architecture(), description="Shape of a new model.")
    vocabulary: Vocabulary = Field(Vocabulary(), description="Tokenizer of a new model.")
    data: Data = Field(description="Documents: raw text.")
    held_out: Data | None = Field(None, description="Documents to measure on; absent: a share of the data.")
    held_out_fraction: Fraction = Field(0.05, description="That share, chosen by hash of the text.")
    sequence_length: PositiveInt = Field(
        256, description="Tokens that are learned in a row, and how many before it a token can see at most."
    )
    batch_size: PositiveInt = Field(16, description="Rows per optimizer step.")
    epochs: Positive | None = Field(None, description="Passes over the documents; absent, with steps: as it comes.")
    steps: PositiveInt | None = Field(None, description="Optimizer steps; absent: those of `epochs`, or of one pass.")
    evaluate_every: PositiveInt = Field(100, description="Steps between measurements on held-out documents.")
    num_samples: int = Field(4, ge=0, description="Held-out documents whose beginning is continued at the end.")
    sampling: Sampling = Field(Sampling(), description="How they are continued.")
    optimizer: PretrainOptimizer = Field(PretrainOptimizer(), description="Optimizer.")

    @model_validator(mode="after")
    def _consistent(self) -> PretrainRecipe:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps both say how long it learns: leave one of them out")
        if self.held_out is None and not 0 < self.held_out_fraction < 1:
            raise ValueError("held_out_fraction leaves nothing to learn from, or nothing to measure on")
        if not self.model and (self.adapter is not None or self.frozen_layers):
            raise ValueError("adapter and frozen_layers are for a model that goes on: name it by model")
        if self.model and (self.architecture != Architecture() or self.vocabulary != Vocabulary()):
            raise ValueError("architecture and vocabulary are of a new model: leave them out, or leave out model")
        return self
