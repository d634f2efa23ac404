"""Text as it is drawn, for people who watch: chat and the API.

The tokens are those of `LocalEngine.generate`: same distribution, same random numbers, same code. What is added is when
a token becomes text. A character of several bytes is held back until it is whole, and white space until something
follows it, so the pieces joined are the response's text, which has none at its ends.

Left out: stop strings (whoever reads the pieces can stop reading), and top-p and top-k, as in `engine.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.drawing import Drawn, draw, most_likely
from palate.rollout.local import check_lengths, steps, undrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one more token has made sayable.

    Attributes:
        index: which of the responses, from 0.
        text: empty while the last tokens are not yet whole text.
    """

    index: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of one response.

    Attributes:
        index: which of the responses, from 0.
        text: all of it, as the engine would give it. The pieces joined are the same, unless the tokenizer's decoding
            rewrites characters once it knows later ones; then the pieces end early.
        finish_reason: a stop token was drawn, or ``max_new_tokens`` were.
        prompt_tokens, response_tokens: how many; a stop token counts.
        logprob: sum over the response, under the distribution it was drawn from, in nats.
    """

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    response_tokens: int
    logprob: float


@torch.no_grad()
def stream(
    model: LanguageModel,
    chat: Chat,
    prompt: Prompt,
    sampling: Sampling,
    *,
    key: tuple[int | str, ...],
    sample_index: int = 0,
    num_responses: int = 1,
    greedy: bool = False,
) -> Iterator[Piece | Finished]:
    """Responses to one prompt, decoded side by side; every token gives one `Piece`, every response one `Finished`.

    Several streams may take turns in one thread. Closing the iterator between two tokens ends the decoding there.

    Args:
        model: whose weights must not change meanwhile.
        chat: its tokenizer and template.
        prompt: what to respond to.
        sampling: temperature and longest response.
        key: of the random numbers; as `LocalEngine.generate` has it.
        sample_index: number of the first response: with the same key, the engine's response of that number.
        num_responses: how many, with numbers from ``sample_index`` on.
        greedy: always the most likely token, for certain. Temperature, key and number then do not matter.

    Raises:
        DataError: prompt and response may be longer than the model's context.
    """
    tokens = chat.prompt_tokens(prompt)
    check_lengths(model, [prompt], [tokens], sampling)
    numbers = range(sample_index, sample_index + num_responses)
    responses = [undrawn(0, prompt, number, sampling, key) for number in numbers]
    texts = [GrowingText(chat) for _ in responses]
    for _ in steps(model, [tokens], responses, sampling, chat.stop_id, most_likely if greedy else draw):
        for index, (response, text) in enumerate(zip(responses, texts, strict=True)):
            if len(response.tokens) == text.num_tokens:  # finished before
                continue
            yield Piece(index=index, text=text.update(response))
            if response.done:
                yield _finished(index, chat, len(tokens), response)


def _finished(index: int, chat: Chat, prompt_tokens: int, response: Drawn) -> Finished:
    return Finished(
        index=index,
        text=chat.text(response.tokens),
        finish_reason="stop" if response.ended else "length",
        prompt_tokens=prompt_tokens,
        response_tokens=len(response.tokens),
        logprob=sum(response.logprobs),
    )


class GrowingText:
    """How much of a growing response can be said.

    Attributes:
        num_tokens: seen so far.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.num_tokens = 0
        self._said = ""

    def update(self, response: Drawn) -> str:
        """What can be said now and could not be said before."""
        self.num_tokens = len(response.tokens)
        text = self.chat.text(response.tokens)
        if not response.done:
            text = text.rstrip(
                "\N{REPLACEMENT CHARACTER}"
            ).rstrip()  # the start of a character may be the last of these
        if not text.startswith(self._said):  # decoding has changed its mind, for now or for good
            return ""
        piece, self._said = text[len(self._said) :], text
        return piece
