"""What distinguishes the families of language models, as data: a Hugging Face config becomes the `Shape` of a decoder.

A family is covered exactly or not at all. `FAMILIES` names every field of its config class that is understood; a config
in which any other differs from its default, or one of these has a value that the decoder does not compute, is not
covered, and the model runs through transformers' own code (`foreign.py`), which says why.

Rotary scaling that depends on how long the batch is (dynamic, longrope) is not covered on principle: a token's
probability would be another one in other company.

Left out: mixtures of experts, images, quantised weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from palate.lm.backbone import Size


class NotCovered(Exception):
    """The decoder does not compute this model; the message names what is so computed elsewhere, in the plural."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """One way to rotate: Su et al. 2021 (arXiv 2104.09864).

    Attributes:
        frequencies: radians a position, one for each pair of numbers that is rotated; what is left of a head is not.
        factor: that rotated numbers are multiplied with, 1 but for yarn.
    """

    frequencies: tuple[float, ...]
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How the queries of a layer meet its keys.

    Attributes:
        window: how many tokens are seen, oneself included; None: all that came before.
        scale: of the products of queries and keys; None: one over the root of the head's size.
        cap: products are bent to stay between minus and plus this; Gemma 2 (arXiv 2408.00118).
    """

    window: int | None = None
    scale: float | None = None
    cap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What differs from layer to layer: which of the shape's ropes rotates, if any, and the rule of attention."""

    rope: int | None
    rule: Rule


Norms = tuple[tuple[str, str], tuple[str, str]]
"""Names of the norms before and after attention, then before and after the MLP; empty: there is none."""

BEFORE: Norms = (("input_layernorm", ""), ("post_attention_layernorm", ""))
AFTER: Norms = (("", "post_attention_layernorm"), ("", "post_feedforward_layernorm"))
AROUND: Norms = (
    ("input_layernorm", "post_attention_layernorm"),
    ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(Size):
    """Everything a decoder is built from.

    Attributes:
        layers: each layer's own.
        ropes: that layers refer to; all rotate as many numbers.
        biases: names of the projections that have one.
        norms: which there are around attention and MLP.
        norm_offset: added to the weights of norms.
        query_key_norm: queries and keys are normed, head by head or all heads at once.
        activation: as Hugging Face names it.
        embedding_scale: that embeddings are multiplied with.
        logit_cap: as a rule's, of the logits.
        fused: projections that are one matrix in files: its name, and whose rows it has, in order.
    """

    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    layers: tuple[Layer, ...]
    ropes: tuple[Rope, ...]
    biases: tuple[str, ...] = ()
    norms: Norms = BEFORE
    norm_offset: float = 0.0
    query_key_norm: Literal["", "heads", "whole"] = ""
    activation: Literal["silu", "gelu_pytorch_tanh"] = "silu"
    embedding_scale: float = 1.0
    logit_cap: float | None = None
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def size_of(self, projection: str) -> tuple[int, int]:
        """Inputs and outputs of a projection, by its name."""
        outer, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        sizes = {
            "q_proj": (outer, queries),
            "k_proj": (outer, keys),
            "v_proj": (outer, keys),
            "o_proj": (queries, outer),
            "gate_proj": (outer, inner),
            "up_proj": (outer, inner),
            "down_proj": (inner, outer),
        }
        return sizes[projection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One ``model_type``.

    Attributes:
        models: as people call them.
        peculiarities: what it has besides Llama's; for people.
        fields: of its config, read here besides those that all have.
        always: the shape's fields that all its models have alike.
        always_biased: projections that have a bias whatever the config says.
        scales_embeddings: by the root of the width: Gemma.
        rotates_part: its heads may be rotated in part.
    """

    models: str
    peculiarities: str
    fields: frozenset[str]
    always: Mapping[str, Any]
    always_biased: tuple[str, ...] = ()
    scales_embeddings: bool = False
    rotates_part: bool = False


QKV = ("q_proj", "k_proj", "v_proj")
GEMMA = {"norm_offset": 1.0}

FAMILIES = {
    "llama": Family(
        models="Llama 2, 3, 3.1, 3.2; SmolLM 1, 2",
        peculiarities="grouped queries, scaled rotary embeddings",
        fields=frozenset({"attention_bias", "mlp_bias"}),
        always={},
    ),
    "mistral": Family(
        models="Mistral 7B, Nemo, Small (text)",
        peculiarities="a sliding window in every layer, head size of its own",
        fields=frozenset({"sliding_window"}),
        always={},
    ),
    "qwen2": Family(
        models="Qwen 2, 2.5",
        peculiarities="biases of queries, keys and values; sliding windows in upper layers",
        fields=frozenset({"sliding_window", "layer_types"}),
        always={},
        always_biased=QKV,
    ),
    "qwen3": Family(
        models="Qwen 3 (dense)",
        peculiarities="queries and keys normed head by head, head size of its own",
        fields=frozenset({"sliding_window", "layer_types", "attention_bias"}),
        always={"query_key_norm": "heads"},
    ),
    "smollm3": Family(
        models="SmolLM 3",
        peculiarities="layers that are not rotated",
        fields=frozenset({"sliding_window", "layer_types", "attention_bias", "mlp_bias", "no_rope_layers"}),
        always={},
    ),
    "gemma": Family(
        models="Gemma 1",
        peculiarities="scaled embeddings, norms around one, GELU",
        fields=frozenset({"attention_bias"}),
        always=GEMMA,
        scales_embeddings=True,
    ),
    "gemma2": Family(
        models="Gemma 2",
        peculiarities="as Gemma 1; norms before and after, every other layer slides, soft caps of attention and "
        "logits, a scale of attention",
        fields=frozenset(
            {
                "attention_bias",
                "query_pre_attn_scalar",
                "sliding_window",
                "layer_types",
                "attn_logit_softcapping",
                "final_logit_softcapping",
            }
        ),
        always=GEMMA | {"norms": AROUND},
        scales_embeddings=True,
    ),
    "gemma3_text": Family(
        models="Gemma 3 (text)",
        peculiarities="as Gemma 2 without soft caps; queries and keys normed head by head, two rotary bases, five of "
        "six layers slide",
        fields=frozenset(
            {"attention_bias", "query_pre_attn_scalar", "sliding_window", "layer_types", "final_logit_softcapping"}
        ),
        always=GEMMA | {"norms": AROUND, "query_key_norm": "heads"},
        scales_embeddings=True,
    ),
    "phi3": Family(
        models="Phi 3, 3.5, 4 (without longrope)",
        peculiarities="fused projections in its files, heads rotated in part, a sliding window",
        fields=frozenset({"sliding_window"}),
        always={"fused": (("qkv_proj", QKV), ("gate_up_proj", ("gate_proj", "up_proj")))},
        rotates_part=True,
    ),
    "olmo2": Family(
        models="OLMo 2",
        peculiarities="norms after attention and MLP, queries and keys normed over all heads",
        fields=frozenset({"attention_bias"}),
        always={"norms": AFTER, "query_key_norm": "whole"},
    ),
}

ALL_HAVE = frozenset(
    {
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "hidden_act", "hidden_activation", "rms_norm_eps", "rope_parameters"),
        "tie_word_embeddings",
    }
)
"""Fields that are read of every config that has them."""

CHANGE_NOTHING = frozenset(
    {
        *("max_position_embeddings", "initializer_range", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id"),
        *("attention_dropout", "resid_pdrop", "embd_pdrop", "pretraining_tp"),
        # what these say has gone into `layer_types`, `no_rope_layers` and `rope_parameters` when a config is made
        *("use_sliding_window", "max_window_layers", "no_rope_layer_interval", "original_max_position_embeddings"),
    }
)
"""Fields that do not change what is computed: dropout is off."""

ROPE_FIELDS = frozenset(
    {
        *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings"),
        *("low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    }
)
STATIC_ROPES = ("default", "linear", "llama3", "yarn")
"""Whose frequencies are the same however long a sequence is."""


def shape_of(config: Any) -> Shape:
    """The shape of the model with this config.

    Raises:
        NotCovered: the decoder would compute something else.
    """
    name = config.model_type
    family = FAMILIES.get(name)
    if family is None:
        raise NotCovered(f"{name} models")
    changed = [field for field in _changed(config) if field not in family.fields | ALL_HAVE | CHANGE_NOTHING]
    if changed:
        raise NotCovered(f"{name} models with {', '.join(f'{field} = {getattr(config, field)}' for field in changed)}")
    if getattr(config, "quantization_config", None) or not getattr(config, "is_causal", True):
        raise NotCovered(f"{name} models that are quantised or not causal")
    if getattr(config, "is_heterogeneous", False):
        raise NotCovered(f"{name} models whose layers differ in size")

    own = {field.name for field in fields(type(config))}  # transformers heeds no other, whatever config.json says
    activation = config.hidden_activation if "hidden_activation" in own else config.hidden_act
    if activation not in ("silu", "gelu_pytorch_tanh"):
        raise NotCovered(f"{name} models with {activation} for activation")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = _kinds(config, family)
    ropes = {kind: _rope(config, kind, head_dim, family) for kind in sorted(set(kinds))}
    distinct = list(dict.fromkeys(ropes.values()))
    rotated = getattr(config, "no_rope_layers", None) if "no_rope_layers" in family.fields else None
    scalar = config.query_pre_attn_scalar if "query_pre_attn_scalar" in family.fields else None
    cap = config.attn_logit_softcapping if "attn_logit_softcapping" in family.fields else None
    return Shape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=config.rms_norm_eps,
        layers=tuple(
            Layer(
                rope=distinct.index(ropes[kind]) if rotated is None or rotated[index] else None,
                rule=Rule(
                    window=config.sliding_window if kind == "sliding_attention" else None,
                    scale=None if scalar in (None, head_dim) else scalar**-0.5,
                    cap=cap,
                ),
            )
            for index, kind in enumerate(kinds)
        ),
        ropes=tuple(distinct),
        biases=_biases(config, family),
        activation=activation,
        embedding_scale=config.hidden_size**0.5 if family.scales_embeddings else 1.0,
        logit_cap=config.final_logit_softcapping if "final_logit_softcapping" in family.fields else None,
        **family.always,
    )


def _changed(config: Any) -> list[str]:
    """Fields of its own that differ from their defaults; absent, false and zero are alike."""
    from transformers import PreTrainedConfig

    common = {field.name for field in fields(PreTrainedConfig)}
    plain = type(config)()
    own = [field.name for field in fields(type(config)) if field.name not in common]
    return [name for name in own if (getattr(config, name) or None) != (getattr(plain, name) or None)]


def _kinds(config: Any, family: Family) -> list[str]:
    """Of each layer: ``full_attention`` or ``sliding_attention``."""
    kinds = ["full_attention"] * config.num_hidden_layers
    if "layer_types" in family.fields:
        kinds = list(config.layer_types)
    elif "sliding_window" in family.fields and config.sliding_window is not None:
        kinds = ["sliding_attention"] * config.num_hidden_layers
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise NotCovered(f"{config.model_type} models with layers of {', '.join(sorted(unknown))}")
    if "sliding_attention" in kinds and not config.sliding_window:
        raise NotCovered(f"{config.model_type} models with sliding layers and no window")
    if len(kinds) != config.num_hidden_layers:
        raise NotCovered(f"{config.model_type} models with {len(kinds)} kinds of {config.num_hidden_layers} layers")
    return kinds


def _rope(config: Any, kind: str, head_dim: int, family: Family) -> Rope:
    """How layers of a kind are rotated."""
    nested = any(isinstance(value, dict) for value in config.rope_parameters.values())
    settings = config.rope_parameters[kind] if nested else config.rope_parameters
    type_, part = settings["rope_type"], settings.get("partial_rotary_factor") or 1.0
    if type_ not in STATIC_ROPES:
        raise NotCovered(f"{config.model_type} models with rotary embeddings of type {type_}")
    if unknown := settings.keys() - ROPE_FIELDS:
        raise NotCovered(f"{config.model_type} models with rotary embeddings that have {', '.join(sorted(unknown))}")
    if part != 1.0 and not (family.rotates_part and type_ == "default"):
        raise NotCovered(f"{config.model_type} models with heads rotated in part")
    if nested != (config.model_type == "gemma3_text"):
        raise NotCovered(f"{config.model_type} models with rotary embeddings by kinds of layers")
    if type_ != "default":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, factor = ROPE_INIT_FUNCTIONS[type_](config, **({"layer_type": kind} if nested else {}))
        return Rope(frequencies=tuple(frequencies.tolist()), factor=float(factor))
    size = int(head_dim * part)
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    return Rope(frequencies=tuple((1.0 / settings["rope_theta"] ** exponents).tolist()), factor=1.0)


def _biases(config: Any, family: Family) -> tuple[str, ...]:
    names = family.always_biased
    if "attention_bias" in family.fields and config.attention_bias:
        names = (*QKV, "o_proj")
    if "mlp_bias" in family.fields and config.mlp_bias:
        names = (*names, "gate_proj", "up_proj", "down_proj")
    return names


def split(shape: Shape, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are in a file -> by the names of the decoder's projections."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        *path, name, what = key.rsplit(".", 2) if key.count(".") > 1 else ("", "", key)
        parts = dict(shape.fused).get(name, ())
        rows = tensor.split([shape.size_of(part)[1] for part in parts]) if parts else (tensor,)
        names = [".".join([*path, part, what]) for part in parts] or [key]
        out |= dict(zip(names, rows, strict=True))
    return out


def fuse(shape: Shape, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way."""
    out = dict(state)
    for name, parts in shape.fused:
        for key in state:
            path, _, rest = key.rpartition(f".{parts[0]}.")
            if path:
                out[f"{path}.{name}.{rest}"] = torch.cat([out.pop(f"{path}.{part}.{rest}") for part in parts])
    return out


def architecture(config: Any, head: str) -> str:
    """What transformers calls the class of such a model; ``head`` as `Model` has it."""
    from transformers.models.auto import modeling_auto

    names = {
        "ForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "ForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }
    return str(names[head][config.model_type])
