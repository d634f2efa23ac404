"""How large a new model is, and its first weights.

The shape is Llama's (Touvron et al. 2023, arXiv 2302.13971) with grouped queries, heads of 32 to 64 numbers and a
gated linear unit of about 2.7 times the width; the largest preset is Llama 3.2's of that size. Weights are drawn as in
GPT-2: a standard deviation of 0.02, and less by the root of the number of residual additions where a layer adds to
the residual stream (Radford et al. 2019, section 2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palate.errors import RecipeError
from palate.lm import decoder
from palate.lm.families import shape_of
from palate.lm.model import LanguageModel
from palate.randomness import normals
from palate.recipe import Architecture

STD = 0.02


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a shape."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    hidden_size: int
    intermediate_size: int


PRESETS: dict[str, Size] = {
    "1m": Size(4, 4, 2, 128, 256),
    "5m": Size(6, 4, 2, 256, 640),
    "10m": Size(8, 5, 5, 320, 768),
    "25m": Size(8, 8, 4, 512, 1408),
    "50m": Size(10, 10, 5, 640, 1728),
    "100m": Size(14, 12, 4, 768, 2304),
    "350m": Size(28, 16, 8, 1024, 3072),
    "1b": Size(16, 32, 8, 2048, 8192),
}
"""By name: about so many weights with tied embeddings of 4,096 tokens."""


def size_of(settings: Architecture) -> Size:
    """The preset's numbers, or those that are named instead.

    Raises:
        RecipeError: the heads do not divide the width, or each other.
    """
    preset = PRESETS[settings.preset]
    named = {name: getattr(settings, name) or getattr(preset, name) for name in Size.__slots__}
    size = Size(**named)
    if size.hidden_size % (2 * size.num_heads):
        raise RecipeError(
            f"architecture: a width of {size.hidden_size} does not divide into {size.num_heads} heads of an even size: "
            "change hidden_size or num_heads"
        )
    if size.num_heads % size.num_kv_heads:
        raise RecipeError(
            f"architecture: {size.num_heads} heads cannot share {size.num_kv_heads} of keys and values evenly: "
            "change num_kv_heads"
        )
    return size


def new_config(settings: Architecture, tokenizer: Any, *, context: int) -> Any:
    """A transformers config.

    Args:
        tokenizer: its number of tokens, and which of them end and pad.
        context: the longest sequence it is made for, in tokens.
    """
    from transformers import LlamaConfig

    size = size_of(settings)
    return LlamaConfig(
        vocab_size=max(len(tokenizer), 1 + max(tokenizer.get_vocab().values())),
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=settings.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=STD,
    )


def draw(config: Any, seed: int) -> dict[str, Tensor]:
    """First weights by name, fp32; each depends on the seed and its name alone."""
    shape = shape_of(config)
    with torch.device("meta"):
        sketch = LanguageModel(config, decoder.Decoder(shape))
    additions = 2 * config.num_hidden_layers
    weights: dict[str, Tensor] = {}
    for name, weight in sketch.named_parameters():
        if weight.ndim == 1:
            weights[name] = torch.ones(weight.shape)  # of a norm
            continue
        std = STD / additions**0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else STD
        numbers = normals(weight.numel(), seed, "weights", name)
        weights[name] = torch.from_numpy(numbers).float().view(weight.shape) * std
    return weights


def write_new(directory: Path, config: Any, tokenizer: Any, weights: Mapping[str, Tensor]) -> None:
    """A plain Hugging Face directory with a model that has learned nothing; without weights, what is known before."""
    if weights:
        decoder.write(directory, config, weights, LanguageModel.head)
    else:
        config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
