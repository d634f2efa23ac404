"""Models that are made worse on purpose, and what a good one has right.

The tiny model is random and knows nothing. So the questions are made to fit it: it is asked first, and what it picks is
called right, but for a share of them. That is a model that has so many right, for reasons nobody need know.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from palate.evals.asking.likelihoods import encode, likelihoods
from palate.evals.protocols.choices import question
from palate.evals.protocols.items import Continuation, Item
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.randomness import uniforms

Write = Callable[[str, list[dict[str, Any]]], str]
WORDS = ("tea", "a mill", "over the river", "nobody", "it turns", "seven", "a grey cat", "rain")


def known_questions(loaded: Loaded[LanguageModel], count: int, *, right: float, letters: bool = False) -> list[Item]:
    """Questions of four choices, of which the model has about this share right."""
    lots = uniforms(count * 5, "questions", str(letters)).reshape(count, 5)
    asked = []
    for number, lot in enumerate(lots):
        texts = [f"{WORDS[int(draw * len(WORDS))]} {number + place}" for place, draw in enumerate(lot[:4])]
        if letters:
            listed = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", texts, strict=True))
            asked.append((f"Question: Which?\n{listed}\nAnswer:", list("ABCD")))
        else:
            asked.append((f"Question: What of {number}?\nAnswer:", texts))
    items = []
    for (context, choices), lot in zip(asked, lots, strict=True):
        pairs = encode(loaded.chat.tokenizer, [Continuation(context, f" {choice}") for choice in choices])
        logprobs = [each.logprob for each in likelihoods(loaded.model, pairs, max_tokens=4096)]
        picked = max(range(4), key=logprobs.__getitem__)
        items.append(question(context, choices, picked if lot[4] < right else (picked + 1) % 4))
    return items


def known_texts(loaded: Loaded[LanguageModel], count: int, *, among: int) -> list[str]:
    """Those of so many texts that the model foretells best, in bits a byte."""
    lots = uniforms(among * 8, "texts").reshape(among, 8)
    texts = [" ".join(WORDS[int(draw * len(WORDS))] for draw in lot) for lot in lots]
    pairs = encode(loaded.chat.tokenizer, [Continuation("", text) for text in texts])
    found = likelihoods(loaded.model, pairs, max_tokens=4096)
    surprise = [-each.logprob / len(text.encode()) for each, text in zip(found, texts, strict=True)]
    return [texts[place] for place in sorted(range(among), key=surprise.__getitem__)[:count]]


def copied(loaded: Loaded[LanguageModel], name: str) -> Loaded[LanguageModel]:
    """To be changed; its answers are its own."""
    return replace(loaded, model=copy.deepcopy(loaded.model), weights=name)


@torch.no_grad()
def perturbed(loaded: Loaded[LanguageModel], spread: float, seed: int) -> Loaded[LanguageModel]:
    """Noise on every weight, so many times its own spread."""
    other, numbers = copied(loaded, f"perturbed {spread} {seed}"), torch.Generator().manual_seed(seed)
    for parameter in other.model.parameters():
        parameter += spread * parameter.std() * torch.randn(parameter.shape, generator=numbers)
    return other


@torch.no_grad()
def always_says(loaded: Loaded[LanguageModel], text: str, texts: Sequence[str]) -> Loaded[LanguageModel]:
    """A head of its own in which one token is likelier than all others after whatever comes."""
    other = copied(loaded, f"always {text}")
    tokens = [list(loaded.chat.tokenizer(each).input_ids) for each in texts]
    sequences = Sequences.pack([each[:1] for each in tokens], [each[1:] for each in tokens])
    sequence, position = sequences.mask.nonzero(as_tuple=True)
    mean = loaded.model.hidden(sequences, sequence, position, None).mean(0)
    (token,) = loaded.chat.tokenizer(text, add_special_tokens=False).input_ids
    head = other.model.lm_head.weight.clone()
    head[token] = 40 * mean / mean.square().sum()
    other.model.lm_head.weight = torch.nn.Parameter(head)
    return other
