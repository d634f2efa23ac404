"""A tokenizer out of text: byte-level BPE, which can say whatever is written and never meets an unknown character.

Sennrich et al. 2016 (arXiv 1508.07909); over bytes: Radford et al. 2019 ("Language models are unsupervised multitask
learners", section 2.2). The merging is the `tokenizers` library's.

Left out: digits apart, other pre-tokenisation than GPT-2's, normalisation (text comes back to the letter).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from palate.lm.sources.builtin import SPECIAL, byte_level


def train_tokenizer(texts: Iterable[str], size: int) -> Any:
    """A Hugging Face tokenizer of ``size`` tokens, or fewer where the texts have no more to merge.

    Args:
        texts: the documents that the model is going to learn from; none that it is measured on.
        size: three special tokens, 256 bytes, and the rest merges.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return byte_level(tokenizer.model)
