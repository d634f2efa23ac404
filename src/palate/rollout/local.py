"""The local engine: samples with the very network that trains.

A token's distribution and its uniform number decide it, whatever it is decoded beside. Our own network is decoded in
`slots.py`, the networks that are transformers' in `padded.py`.

Left out: speculative decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch

from palate.errors import DataError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.decoder import Decoder
from palate.lm.foreign import Foreign
from palate.lm.model import LanguageModel
from palate.randomness import uniforms
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout import padded, slots
from palate.rollout.drawing import Drawn, Pick, draw
from palate.rollout.engine import Rollout
from palate.run.world import world


class LocalEngine:
    """Draws responses from a `LanguageModel` in this process."""

    def __init__(self, model: LanguageModel, chat: Chat) -> None:
        self.model, self.chat = model, chat

    def load_weights(self, model: LanguageModel) -> None:
        """As in `RolloutEngine`; nothing is copied, the engine reads the model's own weights."""
        self.model = model

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        num_responses: int,
        key: tuple[int | str, ...],
        show: Callable[[int, int], None] | None = None,
    ) -> Rollout:
        """As in `RolloutEngine`; ``show`` is told how many of how many responses are done.

        Raises:
            DataError: a prompt longer than the model's context leaves room for.
        """
        prompt_tokens = [self.chat.prompt_tokens(prompt) for prompt in prompts]
        check_lengths(self.model, prompts, prompt_tokens, sampling)
        responses = [
            undrawn(index, prompts[index], number, sampling, key) for index, number in numbered(prompts, num_responses)
        ]
        by_prompt = [responses[start : start + num_responses] for start in range(0, len(responses), num_responses)]
        own = list(world().mine(by_prompt))
        with self.model.whole() as model:
            self._draw(model, prompt_tokens, [response for each in own for response in each], sampling, show)
        drawn = [response for each in world().whole(own, "responses") for response in each]
        return rollout_of(self.model, self.chat, prompts, prompt_tokens, drawn, sampling)

    def _draw(
        self,
        model: LanguageModel,
        prompt_tokens: list[list[int]],
        responses: list[Drawn],
        sampling: Sampling,
        show: Callable[[int, int], None] | None,
    ) -> None:
        """Fill in the responses."""
        if not responses:  # all prompts are other processes'
            return
        network = model.model
        # one context around all steps, so that transformers' weights are cast once
        with network.autocast() if isinstance(network, Foreign) else nullcontext():
            for _ in steps(model, prompt_tokens, responses, sampling, self.chat.stop_id):
                if show is not None:
                    show(sum(response.done for response in responses), len(responses))


def numbered(prompts: Sequence[Prompt], num_responses: int) -> Iterator[tuple[int, int]]:
    """Of every response the place of its prompt, and its number among those to this prompt.

    A prompt that is given twice gets other responses the second time.
    """
    drawn_before: Counter[str] = Counter()
    for index, prompt in enumerate(prompts):
        first = drawn_before[prompt.id]
        drawn_before[prompt.id] += num_responses
        yield from ((index, number) for number in range(first, first + num_responses))


def rollout_of(
    model: LanguageModel,
    chat: Chat,
    prompts: Sequence[Prompt],
    tokens: list[list[int]],
    responses: list[Drawn],
    sampling: Sampling,
) -> Rollout:
    """What was drawn, where the model computes."""
    sequences = Sequences.pack(
        [tokens[response.prompt] for response in responses],
        [response.tokens for response in responses],
        group_ids=[response.prompt for response in responses],
    )
    drawn = torch.tensor([logprob for response in responses for logprob in response.logprobs])
    return Rollout(
        prompts=tuple(prompts[response.prompt] for response in responses),
        texts=tuple(chat.text(response.tokens) for response in responses),
        sequences=sequences.to(model.device),
        logprobs=torch.zeros(sequences.mask.shape).masked_scatter(sequences.mask, drawn).to(model.device),
        ended=torch.tensor([response.ended for response in responses]),
        temperature=sampling.temperature,
        layout=chat.fingerprint,
    )


def check_lengths(
    model: LanguageModel, prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]], sampling: Sampling
) -> None:
    """Raises:
    DataError: a prompt and its response may be longer than the model's context.
    """
    for prompt, ids in zip(prompts, tokens, strict=True):
        if len(ids) + sampling.max_new_tokens > model.context:
            raise DataError(
                f"a prompt of {len(ids)} tokens and {sampling.max_new_tokens} new ones do not fit the model's "
                f"context of {model.context}: shorten it or leave it out ({prompt.text[:60]!r}...)"
            )


def undrawn(index: int, prompt: Prompt, number: int, sampling: Sampling, key: tuple[int | str, ...]) -> Drawn:
    """Response ``number`` to a prompt with its random numbers; ``index`` is the prompt's place in the call."""
    return Drawn(index, uniforms(sampling.max_new_tokens, *key, prompt.id, number).tolist())


def steps(
    model: LanguageModel,
    prompt_tokens: list[list[int]],
    responses: list[Drawn],
    sampling: Sampling,
    stop_id: int,
    pick: Pick = draw,
) -> Iterator[None]:
    """Fill in the responses: between two yields every slot gets a token. Gradients must be off at every step."""
    network = model.model
    if isinstance(network, Foreign):
        return padded.steps(model, network, prompt_tokens, responses, sampling, stop_id, pick)
    assert isinstance(network, Decoder)
    return slots.Decoding(model, network, prompt_tokens, responses, sampling, stop_id, pick).steps()
