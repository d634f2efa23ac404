"""How likely a model finds continuations: each distinct context is computed once, whatever number of choices follow it.

Texts become tokens as in lm-evaluation-harness 0.4.13, so that the sums are the same to the last digits: blanks at the
end of a context belong to the continuation; both are tokenised together and parted where the context's own tokens end;
an empty context is the tokenizer's BOS, or its EOS where it has none. Sums of log-probabilities are taken in fp64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from palate.evals.protocols.items import Continuation, Likelihood
from palate.lm.batch import Sequences
from palate.lm.logprobs import LOGITS, LOGITS_ON_GPU
from palate.lm.model import LanguageModel

Pair: TypeAlias = tuple[list[int], list[int]]
"""Tokens of a context, one at least, and those of what follows it."""


def prefix_id(tokenizer: Any) -> int:
    """The token that stands before a text that nothing stands before."""
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """A text as the tokenizer begins one, BOS included where it puts one and the text has none."""
    begun = text.startswith(tokenizer.decode([prefix_id(tokenizer)]))
    return list(tokenizer(text, **({"add_special_tokens": False} if begun else {})).input_ids)


def encode(tokenizer: Any, asked: Continuation) -> Pair:
    """A context and its continuation in tokens."""
    if not asked.context:
        following = list(tokenizer(asked.text, add_special_tokens=False).input_ids)
        first = prefix_id(tokenizer)
        return ([first], following) if following[:1] != [first] else (following[:1], following[1:])
    stripped = asked.context.rstrip()
    context = tokens_of(tokenizer, stripped) or [prefix_id(tokenizer)]
    whole = tokens_of(tokenizer, asked.context + asked.text)
    return context, whole[len(tokens_of(tokenizer, stripped)) :]


def windows(tokens: Sequence[int], first: int, length: int) -> list[Pair]:
    """A document in windows of ``length`` predictions, each of its tokens in one of them.

    The first token follows ``first``; those of a later window at least the token before it. The last window is as long
    as the others and begins earlier, so that its tokens have as much before them.
    """
    pairs: list[Pair] = [([first], list(tokens[:length]))] if tokens else []
    for start in range(length, len(tokens), length):
        end = min(start + length, len(tokens))
        pairs.append((list(tokens[end - length - 1 : start]), list(tokens[start:end])))
    return pairs


def within(pairs: Sequence[Pair], most: float) -> tuple[list[Pair], int]:
    """The pairs with at most ``most`` tokens, contexts cut on the left; and how many had to be.

    Raises:
        ValueError: a continuation alone is longer.
    """
    kept = []
    for context, following in pairs:
        room = most - len(following)
        if room < 1:
            raise ValueError(f"a continuation of {len(following)} tokens leaves no room for a context in {most}")
        kept.append((context if len(context) <= room else context[-int(room) :], following))
    return kept, sum(len(old) > len(new) for (old, _), (new, _) in zip(pairs, kept, strict=True))


@torch.no_grad()
def likelihoods(model: LanguageModel, pairs: Sequence[Pair], *, max_tokens: int) -> list[Likelihood]:
    """Of each continuation, in the order of the pairs; contexts that are equal are computed once in a pass.

    Args:
        pairs: [N], none longer than the model's context.
        max_tokens: computed in one pass.
    """
    if not pairs:
        return []
    numbers: dict[tuple[int, ...], int] = {}
    groups = [numbers.setdefault(tuple(context), len(numbers)) for context, _ in pairs]
    sequences = Sequences.pack([context for context, _ in pairs], [text for _, text in pairs], group_ids=groups)
    logprobs, missed = torch.zeros(len(pairs), dtype=torch.float64), torch.zeros(len(pairs), dtype=torch.long)
    for part in sequences.to(model.device).microbatches(max_tokens):
        which, position = part.mask.nonzero(as_tuple=True)
        rows: Tensor = model(model.hidden, part, which, position - 1, None)
        found, greedy = _of_rows(model, rows, part.tokens[which, position])
        places = part.rows[which].cpu()
        logprobs.index_add_(0, places, found.double().cpu())
        missed.index_add_(0, places, (~greedy).long().cpu())
    return [Likelihood(logprob, count == 0) for logprob, count in zip(logprobs.tolist(), missed.tolist(), strict=True)]


def _of_rows(model: LanguageModel, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """[M] log p of each token, predicted by one row, and [M] whether it is the most likely one."""
    budget = LOGITS if rows.device.type == "cpu" else LOGITS_ON_GPU
    size = max(1, budget // model.model.shape.vocab_size)
    found = [_of_part(model, *part) for part in zip(rows.split(size), tokens.split(size), strict=True)]
    logprobs, greedy = zip(*found, strict=True)
    return torch.cat(logprobs), torch.cat(greedy)


def _of_part(model: LanguageModel, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The same of so many rows that their logits, which are written over, are small."""
    logits = model.logits(rows)
    top, likeliest = logits.max(-1)
    chosen = logits.gather(-1, tokens[:, None])[:, 0] - top
    return chosen - logits.sub_(top[:, None]).exp_().sum(-1).log_(), likeliest == tokens
