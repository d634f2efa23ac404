"""A model before its weights: its config, its tokenizer and template, and the precision it is going to be used in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from palate.errors import ModelError
from palate.lm.chat import Chat
from palate.lm.kernels.products import is_row_invariant, multiplies_bf16
from palate.lm.model import ScalarModel
from palate.lm.sources import peft_format
from palate.lm.sources.whereabouts import in_one_line, lowest_first
from palate.lm.templates import find_template

Precision = Literal["auto", "bf16", "fp32"]


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def product_dtype(precision: Precision, device: str = "cpu") -> torch.dtype:
    """The dtype of matrix products: bf16 where that is quick, and as good as fp32, unless told otherwise.

    Quick where the hardware multiplies it. On a processor it is as good if sampling and training round the same sums.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    kind = torch.device(device).type
    return torch.bfloat16 if multiplies_bf16(kind) and (kind != "cpu" or is_row_invariant()) else torch.float32


def load_chat(name: str, *, chat_template: str = "") -> Chat:
    """A model's tokenizer and template, without its weights.

    Raises:
        ModelError: no such model, or its tokenizer or template cannot be used.
    """
    return open_model(lowest_first(name, weights=False), name, chat_template)[1]


def open_model(directories: list[Path], name: str, chat_template: str) -> tuple[Any, Chat]:
    """The config of a model and its tokenizer, which an adapter may have brought along.

    Args:
        directories: of the whole model, and of the adapters on it.
        name: as the user gave it.
        chat_template: a family's name or a file, in place of the model's own template.
    """
    from transformers import AutoConfig, AutoTokenizer

    home = next((each for each in reversed(directories) if (each / "tokenizer_config.json").exists()), directories[0])
    try:
        config = AutoConfig.from_pretrained(directories[0], local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(home, local_files_only=True)
    except Exception as error:  # a torn tokenizer.json raises that very class
        raise ModelError(f"{name}: not a Hugging Face model directory: {in_one_line(error)}") from None
    if chat_template:
        tokenizer.chat_template = find_template(chat_template, tokenizer)
    chat = Chat(tokenizer)
    _check_tokens(chat, config, name)
    # what transformers and vLLM go by when they pad, and when they stop
    config.pad_token_id = chat.pad_id
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if chat.stop_id not in stops:
        config.eos_token_id = chat.stop_id
    return config, chat


def count_heads(config: Any, adapters: list[Path], name: str, wanted: int | None) -> int:
    """How many heads a reward or value model is to have: what is wanted, or else what it has, or else one.

    Raises:
        ModelError: it has heads, and another number of them is wanted.
    """
    is_scalar = any(each.endswith(ScalarModel.head) for each in config.architectures or ())
    has = next(filter(None, map(peft_format.count_heads, reversed(adapters))), config.num_labels if is_scalar else 0)
    if wanted and has and wanted != has:
        raise ModelError(f"{name} is a reward model of {has} heads, not {wanted}: start from a language model")
    return wanted or has or 1


def _check_tokens(chat: Chat, config: Any, name: str) -> None:
    """Every token that may be met has a row in the embeddings.

    A special token that neither the template nor padding uses is never met, since text is no special token: Gemma 3 has
    one for images behind its last row.

    Raises:
        ModelError: the tokenizer has more tokens than the model.
    """
    tokenizer, num_rows = chat.tokenizer, int(config.get_text_config().vocab_size)
    added = tokenizer.added_tokens_decoder
    if max([len(tokenizer) - 1, *added]) < num_rows:
        return
    used = {chat.stop_id, chat.pad_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
    template = str(tokenizer.chat_template)
    unused = {place for place, token in added.items() if token.special and token.content not in template} - used
    if any(place >= num_rows and place not in unused for place in tokenizer.get_vocab().values()):
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, the model {num_rows} embeddings: take the tokenizer "
            "that belongs to the model, or resize the embeddings after adding tokens"
        )
