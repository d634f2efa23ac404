"""Text as it is drawn, for people who watch: chat and the API.

The tokens are those of `LocalEngine.generate`: same distribution, same random numbers, same code. What is added is when
a token becomes text. A character of several bytes is held back until it is whole, and white space until something
follows it, so the pieces joined are the response's text, which has none at its ends.

A response may continue what is there already: the beginning of the assistant's turn, or a text with no turns at all.
Then white space counts, and is kept. Readers who want another distribution than the model's (`shaping.py`) get each
response decoded by itself.

Left out: stop strings (whoever reads the pieces can stop reading), and top-k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import torch

from palate.errors import RecipeError
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.drawing import Drawn, Pick, draw, most_likely
from palate.rollout.local import check_lengths, steps, undrawn
from palate.rollout.shaping import Chosen, ShapedPick, Shaping

TAIL = 8
"""Tokens before a continuation that its own are decoded after: white space between two tokens belongs to neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one more token has made sayable.

    Attributes:
        index: which of the responses, from 0.
        text: empty while the last tokens are not yet whole text.
        chosen: the token and what else was likely, where that was asked for; a stop token is no part of the text.
    """

    index: int
    text: str
    chosen: Chosen | None = None


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
        tokens: the response itself, a stop token included.
    """

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    response_tokens: int
    logprob: float
    tokens: tuple[int, ...]


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
    shaping: Shaping | None = None,
    begun: str = "",
    raw: bool = False,
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
        shaping: another distribution than the model's.
        begun: how the assistant's turn begins; the responses are what follows it.
        raw: the prompt is a text to be continued as it stands, not a conversation.

    Raises:
        DataError: prompt and response may be longer than the model's context.
        RecipeError: a bias for a token that the model does not have.
    """
    tokens = text_tokens(chat, prompt.text) if raw else chat.prompt_tokens(prompt)
    tokens += chat.beginning_tokens(begun) if begun else []
    check_lengths(model, [prompt], [tokens], sampling)
    numbers = range(sample_index, sample_index + num_responses)
    responses = [undrawn(0, prompt, number, sampling, key) for number in numbers]
    texts = [GrowingText(chat, tokens[-TAIL:] if raw or begun else ()) for _ in responses]
    pick: Pick = most_likely if greedy else draw
    picks = [_shaped(model, shaping, pick, sampling) for _ in responses] if shaping else []
    groups: list[tuple[list[Drawn], Pick]] = [(responses, pick)]
    if picks:
        groups = [([response], own) for response, own in zip(responses, picks, strict=True)]
    for _ in zip_longest(*(steps(model, [tokens], group, sampling, chat.stop_id, own) for group, own in groups)):
        for index, (response, text) in enumerate(zip(responses, texts, strict=True)):
            if len(response.tokens) == text.num_tokens:  # finished before
                continue
            chosen = picks[index].add(response.tokens[-1]) if picks else None
            yield Piece(index=index, text=text.update(response), chosen=None if response.ended else chosen)
            if response.done:
                yield _finished(index, text, len(tokens), response)


def text_tokens(chat: Chat, text: str) -> list[int]:
    """A text to be continued; begun as the tokenizer begins a text, and never empty."""
    start = chat.tokenizer("").input_ids[:1]
    return [*start, *chat.text_tokens(text)[:-1]] or [chat.stop_id]


def _shaped(model: LanguageModel, shaping: Shaping, pick: Pick, sampling: Sampling) -> ShapedPick:
    vocabulary: int = model.config.get_text_config().vocab_size
    if unknown := [token for token in shaping.logit_bias if not 0 <= token < vocabulary]:
        raise RecipeError(f"there is no token {unknown[0]} to bias: the model has the tokens 0 to {vocabulary - 1}")
    return ShapedPick(shaping, pick, vocabulary=vocabulary, temperature=sampling.temperature, device=model.device)


def _finished(index: int, text: GrowingText, prompt_tokens: int, response: Drawn) -> Finished:
    return Finished(
        index=index,
        text=text.of(response.tokens),
        finish_reason="stop" if response.ended else "length",
        prompt_tokens=prompt_tokens,
        response_tokens=len(response.tokens),
        logprob=sum(response.logprobs),
        tokens=tuple(response.tokens),
    )


class GrowingText:
    """How much of a growing response can be said.

    Args:
        before: the tokens that it continues; without any it is a turn of its own, whose ends are trimmed.

    Attributes:
        num_tokens: seen so far.
    """

    def __init__(self, chat: Chat, before: Sequence[int] = ()) -> None:
        self.chat, self.before = chat, list(before)
        self.num_tokens = 0
        self._said = ""

    def update(self, response: Drawn) -> str:
        """What can be said now and could not be said before."""
        self.num_tokens = len(response.tokens)
        text = self.of(response.tokens)
        if not response.done:
            text = text.rstrip(
                "\N{REPLACEMENT CHARACTER}"
            ).rstrip()  # the start of a character may be the last of these
        if not text.startswith(self._said):  # decoding has changed its mind, for now or for good
            return ""
        piece, self._said = text[len(self._said) :], text
        return piece

    def of(self, tokens: Sequence[int]) -> str:
        """The text of all of these tokens."""
        return continuation(self.chat, self.before, tokens) if self.before else self.chat.text(tokens)


def continuation(chat: Chat, before: Sequence[int], tokens: Sequence[int], *, special: bool = False) -> str:
    """What some tokens add to the text of those before them, to the letter; special tokens only if asked for."""
    head, whole = (
        str(chat.tokenizer.decode(ids, skip_special_tokens=not special)) for ids in ([*before], [*before, *tokens])
    )
    return whole[len(head) :]
