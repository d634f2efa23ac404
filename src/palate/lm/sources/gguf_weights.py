"""A Llama out of a GGUF file: its settings and its weights under Hugging Face's names, dequantised to fp32.

The `gguf` package reads and dequantises; what is left is naming. Llama.cpp keeps the rows of the query and key
projections of a head interleaved (a pair of rotated dimensions side by side), Hugging Face in two halves.

Left out: every architecture but Llama's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palate.errors import ModelError

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_llama(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of a `LlamaConfig`, and the weights.

    Raises:
        ModelError: the file holds another architecture, or a tensor that a Llama does not have.
    """
    from gguf import GGUFReader, dequantize

    reader: Any = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    if fields["general.architecture"] != "llama":
        raise ModelError(f"{path}: a GGUF file of {fields['general.architecture']!r}, and only Llama's are read")
    num_heads, num_kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    state = {}
    for tensor in reader.tensors:
        name = _name(path, tensor.name)
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _halves(weight, num_heads if "q_proj" in name else num_kv_heads)
        state[name] = weight
    settings = {
        "vocab_size": state["model.embed_tokens.weight"].shape[0],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": "lm_head.weight" not in state,
    }
    return settings, state


def _name(path: Path, name: str) -> str:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    *block, part, kind = name.split(".")
    if part not in _NAMES or kind != "weight":
        raise ModelError(f"{path}: tensor {name!r} is none of a Llama's")
    return ".".join([*(["model.layers", block[1]] if block else []), _NAMES[part], kind])


def _halves(weight: Tensor, num_heads: int) -> Tensor:
    """[H * D, N] with the rotated pairs of each head side by side -> first all of one half, then of the other."""
    rows, *rest = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, *rest)
    return pairs.transpose(1, 2).reshape(weight.shape)
