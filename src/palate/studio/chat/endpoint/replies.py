"""OpenAI's protocol: how responses look, whole and in pieces, and where a stop string ends one."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from palate.studio.chat.endpoint.requests import Asked
from palate.studio.chat.wire import Chosen, Done, Piece, Token


class UntilStop:
    """A response up to the first of some stop strings, said as early as it can be.

    What might be the beginning of a stop string is held back until it is known not to be.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.text = ""
        self.ended = False
        self._said = 0

    def add(self, piece: str) -> str:
        """What can be said now."""
        if self.ended:
            return ""
        self.text += piece
        found = [(at + len(stop), at) for stop in self.stops if (at := self.text.find(stop)) >= 0]
        if found:  # the one that was whole first, however the text was cut into pieces
            self.ended, self.text = True, self.text[: min(found)[1]]
        return self._say(len(self.text) if found else len(self.text) - self._held())

    def finish(self) -> str:
        """What was held back, since no more comes."""
        return self._say(len(self.text))

    @property
    def num_said(self) -> int:
        """Characters that have been said."""
        return self._said

    def _held(self) -> int:
        lengths = range(max(map(len, self.stops), default=1) - 1, 0, -1)
        starts = (n for n in lengths if any(self.text.endswith(stop[:n]) for stop in self.stops if len(stop) > n))
        return next(starts, 0)

    def _say(self, upto: int) -> str:
        said, self._said = self.text[self._said : upto], max(self._said, upto)
        return said


@dataclass(frozen=True, slots=True)
class Placed:
    """A token and where in the text it begins."""

    offset: int
    token: Chosen


@dataclass(frozen=True, slots=True)
class Bit:
    """What can now be said of a choice: text, and the tokens it is made of where they were asked for."""

    text: str
    tokens: tuple[Placed, ...] = ()


class Choice:
    """One response as far as it is drawn."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.text = UntilStop(stops)
        self.finish_reason: str | None = None
        self.done: Done | None = None
        self.tokens: list[Placed] = []
        self._num_told = 0

    @property
    def said(self) -> str:
        """All of it, up to a stop string."""
        return self.done.response.text if self.done and not self.text.ended else self.text.text

    def take(self, event: Piece | Done) -> Bit:
        """Note what came; what of it can now be said."""
        if isinstance(event, Piece):
            if event.chosen is not None and not self.text.ended:
                self.tokens.append(Placed(len(self.text.text), event.chosen))
            text = self.text.add(event.text)
        else:
            self.done = event
            text = self.text.finish()
            self.finish_reason = self.finish_reason or event.finish_reason
        if self.text.ended:
            self.finish_reason = "stop"
            self.tokens = [token for token in self.tokens if token.offset < len(self.text.text)]
        return Bit(text, self._told())

    def _told(self) -> tuple[Placed, ...]:
        """Tokens whose text has been said; one that may begin a stop string waits with it."""
        waiting = self.tokens[self._num_told :]
        told = tuple(token for token in waiting if self.finish_reason or token.offset < self.text.num_said)
        self._num_told += len(told)
        return told


@dataclass(slots=True)
class Reply(ABC):
    """Everything about one request.

    What is of one shape in a chat and of another for a text is in `ChatReply` and `TextReply`.
    """

    request: Asked
    created: int = field(default_factory=lambda: int(time.time()))
    choices: list[Choice] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    def __post_init__(self) -> None:
        self.choices = [Choice(self.request.stops) for _ in range(self.request.n or 1)]

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason for choice in self.choices)

    def take(self, event: Piece | Done) -> Bit:
        """Note what came; what can now be said of its choice."""
        return self.choices[event.index].take(event)

    def usage(self) -> dict[str, int] | None:
        """Tokens drawn; None if a stop string ended one of the responses before they were counted."""
        done = [choice.done for choice in self.choices if choice.done]
        if len(done) < len(self.choices):
            return None
        prompt, drawn = done[0].prompt_tokens, sum(each.response_tokens for each in done)
        return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}

    def whole(self) -> dict[str, Any]:
        """The response to a request without ``stream``."""
        choices = [
            {"index": index, "finish_reason": choice.finish_reason, **self._whole(choice)}
            for index, choice in enumerate(self.choices)
        ]
        return self._head() | {"choices": choices, "usage": self.usage()}

    def opening(self, index: int) -> dict[str, Any] | None:
        """What comes before the first piece of a choice."""
        return None

    def chunk(self, index: int, bit: Bit, finish_reason: str | None = None) -> dict[str, Any]:
        """A piece of one choice."""
        return self._chunk({"index": index, "finish_reason": finish_reason, **self._piece(bit)})

    def counts(self) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return self._chunk(None) | {"usage": self.usage()}

    def _chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        return self._head(is_chunk=True) | {"choices": [choice] if choice else []}

    def _head(self, *, is_chunk: bool = False) -> dict[str, Any]:
        done = next((choice.done for choice in self.choices if choice.done), None)
        drawn = done.response.provenance if done else None
        prefix, kind = self._names(is_chunk)
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "system_fingerprint": drawn.checkpoint if drawn else None,
        }

    @abstractmethod
    def _names(self, is_chunk: bool) -> tuple[str, str]: ...

    @abstractmethod
    def _whole(self, choice: Choice) -> dict[str, Any]: ...

    @abstractmethod
    def _piece(self, bit: Bit) -> dict[str, Any]: ...


class ChatReply(Reply):
    """As ``/v1/chat/completions`` has it."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """Who speaks."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})

    def _names(self, is_chunk: bool) -> tuple[str, str]:
        return "chatcmpl", "chat.completion.chunk" if is_chunk else "chat.completion"

    def _whole(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.said, "refusal": None, "annotations": []}
        return {"message": message, "logprobs": self._logprobs(choice.tokens)}

    def _piece(self, bit: Bit) -> dict[str, Any]:
        return {"delta": {"content": bit.text} if bit.text else {}, "logprobs": self._logprobs(bit.tokens)}

    def _logprobs(self, tokens: Sequence[Placed]) -> dict[str, Any] | None:
        if self.request.num_likely is None:
            return None
        told = [_told(each.token) | {"top_logprobs": [_told(token) for token in each.token.likely]} for each in tokens]
        return {"content": told, "refusal": None}


class TextReply(Reply):
    """As ``/v1/completions`` has it."""

    def _names(self, is_chunk: bool) -> tuple[str, str]:
        return "cmpl", "text_completion"

    def _whole(self, choice: Choice) -> dict[str, Any]:
        return {"text": choice.said, "logprobs": self._logprobs(choice.tokens)}

    def _piece(self, bit: Bit) -> dict[str, Any]:
        return {"text": bit.text, "logprobs": self._logprobs(bit.tokens)}

    def _logprobs(self, tokens: Sequence[Placed]) -> dict[str, Any] | None:
        if self.request.num_likely is None:
            return None
        return {
            "tokens": [each.token.text for each in tokens],
            "token_logprobs": [each.token.logprob for each in tokens],
            "top_logprobs": [{token.text: token.logprob for token in each.token.likely} for each in tokens],
            "text_offset": [each.offset for each in tokens],
        }


def _told(token: Token) -> dict[str, Any]:
    """A token that is a part of a character has no text, and no bytes that anyone could say."""
    whole = "\ufffd" not in token.text
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode()) if whole else None}
