"""Decoding with a `Foreign` network: batches in lockstep, through transformers' own cache.

Prompts are padded on the left, so that every response grows next to its prompt and windowed attention sees what it
should; positions come from the mask. A response that has ended is carried along, ignored, until its batch is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from palate.lm.foreign import Foreign
from palate.lm.model import LanguageModel
from palate.recipe import Sampling
from palate.rollout.drawing import Drawn, draw


def decode(
    model: LanguageModel,
    network: Foreign,
    prompt_tokens: Sequence[Sequence[int]],
    responses: Sequence[Drawn],
    sampling: Sampling,
    stop_id: int,
) -> None:
    """Fill in every response, ``num_slots`` of them at a time."""
    for start in range(0, len(responses), sampling.num_slots):
        batch = responses[start : start + sampling.num_slots]
        with network.autocast():  # one context, so that weights are cast once
            _lockstep(model, network, [prompt_tokens[response.prompt] for response in batch], batch, sampling, stop_id)


def _lockstep(
    model: LanguageModel,
    network: Foreign,
    prompts: Sequence[Sequence[int]],
    batch: Sequence[Drawn],
    sampling: Sampling,
    stop_id: int,
) -> None:
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    seen = torch.arange(width, device=model.device) >= width - lengths[:, None]
    past = network.past()
    while True:
        rows = network.extend(tokens, seen, past)
        uniform = torch.tensor([0.0 if response.done else response.next_uniform for response in batch])
        logits = model.unembedding.logits(rows).div_(sampling.temperature)
        drawn, logprobs = draw(logits, uniform.double().to(model.device))
        for response, token, logprob in zip(batch, drawn.tolist(), logprobs.tolist(), strict=True):
            if not response.done:
                response.add(token, logprob, stop_id)
        if all(response.done for response in batch):
            return
        tokens = drawn[:, None]
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
