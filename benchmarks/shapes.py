"""Models of other shapes than the embedded one's: random weights cost what trained ones cost."""

from __future__ import annotations

from dataclasses import replace

import torch

from palate.lm.decoder import Decoder
from palate.lm.families import shape_of
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model

BASE = "smollm2-135m"
"""Whose tokenizer and remaining settings they have."""

SPREAD = 0.02
"""Of random weights, as in GPT-2: wider ones make every distribution a certainty, and training stops at that."""

SHAPES: dict[str, dict[str, int]] = {
    "270M": {
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 32,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
}
"""What differs from it; the second is Llama 3.2 1B with a smaller vocabulary."""


def load(name: str) -> Loaded[LanguageModel]:
    """One of `SHAPES` with random weights, or whatever Palate knows by that name, in fp32."""
    if name not in SHAPES:
        return load_language_model(name, precision="fp32", device="cpu")
    loaded = load_language_model(BASE, precision="fp32", device="cpu")
    config = loaded.model.config
    for key, value in SHAPES[name].items():
        setattr(config, key, value)
    model = LanguageModel(config, Decoder(shape_of(config)))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=SPREAD)
    return replace(loaded, model=model)
