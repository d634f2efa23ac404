"""How likely a model finds continuations: each distinct context is computed once, whatever number of choices follow it.

Texts become tokens as in lm-evaluation-harness 0.4.13, so that the sums are the same to the last digits: blanks at the
end of a context belong to the continuation; both are tokenised together and parted where the context's own tokens end;
an empty context is the tokenizer's BOS, or its EOS where it has none. Sums of log-probabilities are taken in fp64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from palate.evals.protocols.items import Continuation, Likelihood
from palate.lm.batch import Sequences
from palate.lm.decoder import unpaired
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


def encode(tokenizer: Any, asked: Sequence[Continuation]) -> list[Pair]:
    """[N] contexts and their continuations in tokens; every text becomes tokens once, all in one call."""
    first = prefix_id(tokenizer)
    contexts = {each.context: each.context.rstrip() for each in asked if each.context}
    wholes = [each.context + each.text for each in asked if each.context]
    tokens = _tokens_of_each(tokenizer, [*contexts.values(), *wholes])
    found = []
    for each in asked:
        if each.context:
            context = tokens[contexts[each.context]]
            found.append((context or [first], tokens[each.context + each.text][len(context) :]))
            continue
        following = list(tokenizer(each.text, add_special_tokens=False).input_ids)
        found.append(([first], following) if following[:1] != [first] else (following[:1], following[1:]))
    return found


def _tokens_of_each(tokenizer: Any, texts: Sequence[str]) -> dict[str, list[int]]:
    """As `tokens_of`, by the text."""
    begin = tokenizer.decode([prefix_id(tokenizer)])
    found: dict[str, list[int]] = {}
    for begun in (False, True):
        some = [text for text in dict.fromkeys(texts) if text.startswith(begin) == begun]
        if some:
            found |= zip(some, tokenizer(some, add_special_tokens=not begun).input_ids, strict=True)
    return found


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


def laid_out(pairs: Sequence[Pair]) -> Sequences:
    """Continuations of one context share it; one that is alone is a single run of tokens with it.

    Then nothing has to be joined, and attention passes over what is ahead.
    """
    numbers: dict[tuple[int, ...], int] = {}
    groups = [numbers.setdefault(tuple(context), len(numbers)) for context, _ in pairs]
    followers = Counter(groups)
    split = [len(context) if followers[group] > 1 else 0 for (context, _), group in zip(pairs, groups, strict=True)]
    return Sequences.pack(
        [context[:end] for (context, _), end in zip(pairs, split, strict=True)],
        [[*context[end:], *text] for (context, text), end in zip(pairs, split, strict=True)],
        group_ids=groups,
        masks=[
            [False] * (len(context) - end) + [True] * len(text)
            for (context, text), end in zip(pairs, split, strict=True)
        ],
    )


@torch.no_grad()
def likelihoods(model: LanguageModel, pairs: Sequence[Pair], *, max_tokens: int) -> list[Likelihood]:
    """Of each continuation, in the order of the pairs; contexts that are equal are computed once in a pass.

    Args:
        pairs: [N], none longer than the model's context.
        max_tokens: computed in one pass.
    """
    if not pairs:
        return []
    sequences = laid_out(pairs)
    logprobs, missed = torch.zeros(len(pairs), dtype=torch.float64), torch.zeros(len(pairs), dtype=torch.long)
    for part in sequences.to(model.device).microbatches(max_tokens):
        which, position = part.mask.nonzero(as_tuple=True)
        with unpaired():
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
