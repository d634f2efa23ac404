"""OpenAI's protocol for chat: what may be asked, how responses and errors look, where a stop string ends a response."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from palate.errors import ForbiddenError, NotFoundError, PalateError, TooManyError
from palate.records import Message
from palate.studio.chat.generation import Done, Piece, Serving
from palate.studio.web.access import SignInNeeded

MOST_CHOICES = 4
IGNORED = {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier", "verbosity"}
"""Parameters that change nothing in a response."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
}
"""Parameters that are not supported, with the values that ask for nothing."""


class ApiError(Exception):
    """An error in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers: dict[str, str] = {}

    @classmethod
    def of(cls, error: Exception) -> Self | None:
        """What another error is called here; None for a bug."""
        match error:
            case SignInNeeded():
                return cls(
                    401, "the key is missing or was revoked: make one on the page Tokens", code="invalid_api_key"
                )
            case NotFoundError():
                return cls(404, str(error), code="model_not_found", param="model")
            case ForbiddenError():
                return cls(403, str(error))
            case TooManyError():
                return cls(429, str(error), code="rate_limit_exceeded")._later(error.retry_after)
            case RequestValidationError():
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"][1:])
                said = str(first["msg"]).removeprefix("Value error, ")
                return cls(400, f"{where}: {said}" if where else said, param=where or None)
            case PalateError():
                return cls(400, str(error))
        return None

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)

    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def _later(self, seconds: float) -> Self:
        self.headers["Retry-After"] = str(max(int(seconds), 1))
        return self


class Part(BaseModel):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessageIn(BaseModel):
    """One turn; ``name`` is accepted and not told to the model."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    def record(self) -> Message:
        """As our own records have it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class StreamOptions(BaseModel):
    """``include_usage``: one more chunk at the end with the counts."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = False
    include_obfuscation: bool | None = False


class ChatRequest(BaseModel):
    """What may be asked for."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[ChatMessageIn], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, messages: list[ChatMessageIn]) -> list[ChatMessageIn]:
        if messages[-1].role == "assistant":
            raise ValueError("the last message must not be the assistant's")
        return messages

    @model_validator(mode="after")
    def _check_the_rest(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name not in IGNORED and not (name in NEUTRAL and any(value == each for each in NEUTRAL[name])):
                raise ApiError(
                    400, f"{name} is not supported here: leave it out", code="unsupported_parameter", param=name
                )
        return self

    @property
    def sampling(self) -> Serving:
        """Temperature and longest response."""
        longest = self.max_completion_tokens or self.max_tokens or 256
        return Serving(temperature=1.0 if self.temperature is None else self.temperature, max_new_tokens=longest)

    @property
    def stops(self) -> list[str]:
        """Texts that end a response before them."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


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

    def _held(self) -> int:
        lengths = range(max(map(len, self.stops), default=1) - 1, 0, -1)
        starts = (n for n in lengths if any(self.text.endswith(stop[:n]) for stop in self.stops if len(stop) > n))
        return next(starts, 0)

    def _say(self, upto: int) -> str:
        said, self._said = self.text[self._said : upto], max(self._said, upto)
        return said


@dataclass(slots=True)
class Choice:
    """One response as far as it is drawn."""

    text: UntilStop
    finish_reason: str | None = None
    done: Done | None = None

    @property
    def said(self) -> str:
        """All of it, up to a stop string."""
        return self.done.response.text if self.done and not self.text.ended else self.text.text


@dataclass(slots=True)
class Reply:
    """Everything about one request."""

    request: ChatRequest
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_urlsafe(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    choices: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.choices = [Choice(UntilStop(self.request.stops)) for _ in range(self.request.n or 1)]

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason for choice in self.choices)

    def take(self, event: Piece | Done) -> tuple[int, str]:
        """Note what came; returns what can now be said, and of which choice."""
        choice = self.choices[event.index]
        if isinstance(event, Piece):
            said = choice.text.add(event.text)
        else:
            choice.done = event
            said = choice.text.finish()
            choice.finish_reason = choice.finish_reason or event.finish_reason
        if choice.text.ended:
            choice.finish_reason = "stop"
        return event.index, said

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
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.said, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self.choices)
        ]
        return self._head("chat.completion") | {"choices": choices, "usage": self.usage()}

    def chunk(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """A piece of one choice."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def counts(self) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage()}

    def _head(self, kind: str) -> dict[str, Any]:
        done = next((choice.done for choice in self.choices if choice.done), None)
        drawn = done.response.provenance if done else None
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "system_fingerprint": drawn.checkpoint if drawn else None,
        }
