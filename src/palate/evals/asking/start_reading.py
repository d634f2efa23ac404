"""How likely the model that others began as finds what they said: the other half of a KL, whose first half is drawn.

What it has read before is kept in the cache, by its own identity and by the tokens that were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from palate.evals.asking.answering import PROMPTS
from palate.evals.asking.model_identity import identity
from palate.evals.protocols.items import Said
from palate.lm.batch import Sequences, per_token
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.records import content_id
from palate.rewards.judges.answer_cache import AnswerCache


@torch.no_grad()
def read_by_start(
    start: Loaded[LanguageModel],
    prompts: Sequence[list[int]],
    said: Sequence[Sequence[Said]],
    *,
    temperature: float,
    max_tokens: int,
    cache: Path,
) -> list[list[float]]:
    """[N][M] log-probabilities, in nats, of whole responses given their prompts.

    Args:
        prompts: [N] in tokens, as their own model laid them out.
        said: [N][M] with the tokens that were drawn; the model has the same vocabulary, and room for them.
        temperature: at which they were drawn, and are read: another one is another distribution.
        max_tokens: computed in one pass.
        cache: a folder for answers, of all models.
    """
    kept = AnswerCache(cache / identity(start) / "readings.jsonl")
    keys = [
        content_id("reading", str(temperature), str(prompt), *(str(list(each.tokens)) for each in responses))
        for prompt, responses in zip(prompts, said, strict=True)
    ]
    unread = [place for place, key in enumerate(keys) if kept.get(key) is None]
    for first in range(0, len(unread), PROMPTS):
        places = unread[first : first + PROMPTS]
        sequences = Sequences.pack(
            [prompts[place] for place in places for _ in said[place]],
            [list(each.tokens) for place in places for each in said[place]],
            group_ids=[place for place in places for _ in said[place]],
        ).to(start.model.device)
        logprobs = per_token(sequences, max_tokens, lambda part: start.model.logprobs(part, temperature=temperature))
        found = iter(logprobs.double().sum(1).tolist())
        for place in places:
            kept.put(keys[place], {"logprobs": [next(found) for _ in said[place]]})
    return [list((kept.get(key) or {})["logprobs"]) for key in keys]
