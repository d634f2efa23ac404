"""A small random model of each family, with every peculiarity of it switched on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from palate.lm.sources.builtin import byte_tokenizer

COMMON = {"vocab_size": 259, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0, "initializer_range": 0.15}
SMALL = COMMON | {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0}
BY_KIND = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
FULL, SLIDING = "full_attention", "sliding_attention"

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama 3.1": (
        "llama",
        {"head_dim": 16, "attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3},
    ),
    "llama, linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0}, "tie_word_embeddings": True},
    ),
    "mistral": ("mistral", {"head_dim": 16, "sliding_window": 5}),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", WINDOWS | {"rope_parameters": YARN}),
    "qwen3": ("qwen3", WINDOWS | {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "smollm3": (
        "smollm3",
        {
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": 6,
            "layer_types": [SLIDING, FULL, FULL],
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "gemma": ("gemma", {"head_dim": 16, "attention_bias": True}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": 5,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": 5,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 20,
            "final_logit_softcapping": 4.0,
            "rope_parameters": BY_KIND,
        },
    ),
    "phi3": (
        "phi3",
        {"sliding_window": 6, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "phi3, tied": ("phi3", {"tie_word_embeddings": True}),
    "olmo2": ("olmo2", {"attention_bias": True}),
}


def network(name: str) -> Any:
    """transformers' model; no parameter is a zero or a one that might be left out unseen."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = FAMILIES[name]
    auto: Any = AutoModelForCausalLM
    torch.manual_seed(7)
    out = auto.from_config(AutoConfig.for_model(model_type, **SMALL | settings), dtype=torch.float32)
    with torch.no_grad():
        for parameter in out.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return out.eval()


def written(name: str, directory: Path, **how: Any) -> Any:
    """The same, after it has been saved with a tokenizer."""
    out = network(name)
    out.save_pretrained(directory, **how)
    byte_tokenizer().save_pretrained(directory)
    return out
