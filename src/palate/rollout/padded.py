"""Decoding with a `Foreign` network: batches in lockstep, through transformers' own cache.

Prompts are padded on the left, so that every response grows next to its prompt and windowed attention sees what it
should; positions come from the mask. A response that has ended is carried along, ignored, until its batch is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from palate.lm.foreign import Foreign
from palate.lm.model import LanguageModel
from palate.recipe import Sampling
from palate.rollout.drawing import Drawn, Pick


def steps(
    model: LanguageModel,
    network: Foreign,
    prompt_tokens: Sequence[Sequence[int]],
    responses: Sequence[Drawn],
    sampling: Sampling,
    stop_id: int,
    pick: Pick,
) -> Iterator[None]:
    """Fill in every response, ``num_slots`` of them at a time; they get a token each between two yields."""
    for start in range(0, len(responses), sampling.num_slots):
        batch = responses[start : start + sampling.num_slots]
        prompts = [prompt_tokens[response.prompt] for response in batch]
        yield from _lockstep(model, network, prompts, batch, sampling, stop_id, pick)


def _lockstep(
    model: LanguageModel,
    network: Foreign,
    prompts: Sequence[Sequence[int]],
    batch: Sequence[Drawn],
    sampling: Sampling,
    stop_id: int,
    pick: Pick,
) -> Iterator[None]:
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    seen = torch.arange(width, device=model.device) >= width - lengths[:, None]
    past = network.past()
    while True:
        uniform = torch.tensor([0.0 if response.done else response.next_uniform for response in batch])
        with network.autocast():  # not around the yield: two generators that take turns would leave it on
            rows = model(network.extend, tokens, seen, past)
            logits = model.logits(rows, temperature=sampling.temperature)
            drawn, logprobs = pick(logits, uniform.double().to(model.device))
        for response, token, logprob in zip(batch, drawn.tolist(), logprobs.tolist(), strict=True):
            if not response.done:
                response.add(token, logprob, stop_id)
        yield
        if all(response.done for response in batch):
            return
        tokens = drawn[:, None]
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
