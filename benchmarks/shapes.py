"""Models of other shapes than the embedded one's: random weights cost what trained ones cost.

Everything is as published but the weights and the tokenizer, which is the embedded model's: its 49,152 tokens are the
first rows of a vocabulary that keeps its published size, because the size is what costs.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig

from palate.lm.decoder import Decoder
from palate.lm.families import shape_of
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_chat, load_language_model

BASE, SMALL_BASE = "smollm2-135m", "tiny"
"""Whose tokenizer they have; the second is `SMALLEST`'s."""

SMALLEST = "smallest"
STOP = "<file_sep>"
"""The stop token of those that are to go on."""

SPREAD = 0.02
"""Of random weights, as in GPT-2: wider ones make every distribution a certainty, and training stops at that."""

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 40960,
    },
    "llama-3.2-1b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "max_position_embeddings": 131072,
    },
    SMALLEST: {
        "model_type": "qwen3",
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
    },
}
"""Settings of their configs; embeddings of all are tied. The last is for trying the benchmark itself."""


def config(name: str) -> Any:
    """One of `SHAPES` as transformers has it."""
    settings = {"tie_word_embeddings": True, "bos_token_id": None, **SHAPES[name]}
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def load(name: str) -> Loaded[LanguageModel]:
    """One of `SHAPES` with random weights, or whatever Palate knows by that name, in fp32."""
    if name not in SHAPES:
        return load_language_model(name, precision="fp32", device="cpu")
    chat, settings = load_chat(SMALL_BASE if name == SMALLEST else BASE), config(name)
    chat.tokenizer.add_tokens([STOP], special_tokens=True)  # where it is not there
    settings.eos_token_id, settings.pad_token_id = chat.stop_id, chat.pad_id
    model = LanguageModel(settings, Decoder(shape_of(settings)))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=SPREAD)
    mute(model.model, chat.tokenizer.convert_tokens_to_ids(STOP))
    return Loaded(model=model, chat=chat, name=name, weights="")


@torch.no_grad()
def mute(network: Any, token: int) -> None:
    """Let ``token`` never be drawn; random weights draw every token now and then.

    One number of every row is 1 and stays above zero, since no layer writes there; the token's own weight of it is
    far below.
    """
    network.embed_tokens.weight[:, 0] = 1.0
    network.embed_tokens.weight[token, 0] = -1000.0
    for layer in network.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
