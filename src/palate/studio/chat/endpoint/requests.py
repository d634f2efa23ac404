"""OpenAI's protocol: what may be asked, of a chat and of a text to be continued.

Every parameter that the protocol has is a field here, or in `IGNORED`, or in `NEUTRAL`; others are refused by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from palate.records import Message, ToolCall
from palate.studio.chat.endpoint.errors import ApiError
from palate.studio.chat.wire import Serving

MOST_CHOICES = 4
MOST_TOKENS = 32768

IGNORED = {
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
}
"""Parameters that change nothing in a response."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "web_search_options": (None,),
}
"""Parameters that are not supported, with the values that ask for nothing."""

Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]
Bias: TypeAlias = Annotated[float, Field(ge=-100, le=100)]
Length: TypeAlias = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
StopText: TypeAlias = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A piece of a message; only text is understood."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""

    @property
    def said(self) -> str:
        """What it says."""
        return self.text if self.type == "text" else self.refusal


class FunctionIn(BaseModel):
    """A call's function and its arguments, which are JSON as text."""

    model_config = ConfigDict(extra="forbid")

    name: str
    arguments: str = "{}"


class ToolCallIn(BaseModel):
    """What the assistant wanted called."""

    model_config = ConfigDict(extra="forbid")

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionIn

    def record(self) -> ToolCall:
        """As our own records have it."""
        return ToolCall(name=self.function.name, arguments=self.function.arguments, id=self.id)


class DefinitionIn(BaseModel):
    """A function that may be called; its description and parameters go to the template as they are."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)]


class ToolIn(BaseModel):
    """A tool that may be called."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    function: DefinitionIn


class ChatMessageIn(BaseModel):
    """One turn; one of the assistant's may hold all that a client has kept of an earlier reply.

    ``name`` and ``annotations`` are accepted and not told to the model.
    """

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[ToolCallIn] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.refusal is None and not self.tool_calls:
            raise ValueError("a message needs content: a string or an array of objects")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant calls tools")
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a tool's message needs the tool_call_id of the call that it answers")
        return self

    @property
    def said(self) -> str:
        """Its text; a refusal is what the assistant said."""
        if self.content is None:
            return self.refusal or ""
        return self.content if isinstance(self.content, str) else "".join(part.said for part in self.content)

    def record(self, tools: Mapping[str, str]) -> Message:
        """As our own records have it; ``tools`` are names of tools by the ids of their calls."""
        called = self.tool_call_id or ""
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=self.said,
            tool_calls=tuple(call.record() for call in self.calls),
            tool_call_id=called,
            name=tools.get(called, "") if self.role == "tool" else "",
        )

    @property
    def calls(self) -> list[ToolCallIn]:
        """Of tools."""
        return self.tool_calls or []


class StreamOptions(BaseModel):
    """``include_usage``: one more chunk at the end with the counts."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = False
    include_obfuscation: bool | None = False


class Asked(BaseModel):
    """What may be asked of both."""

    model_config = ConfigDict(extra="allow")

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="1 by default; 0 is greedy.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[int, Bias] | None = None
    max_tokens: Length | None = Field(None, description="256 by default in a chat, 16 for a text.")
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _check_the_rest(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or (name in NEUTRAL and any(value == each for each in NEUTRAL[name])):
                continue
            raise ApiError.unsupported(name) if name in NEUTRAL else ApiError.unknown(name)
        return self

    @property
    @abstractmethod
    def prompt_messages(self) -> list[Message]:
        """What is to be answered, or continued."""

    @property
    def definitions(self) -> list[dict[str, JsonValue]]:
        """Of the tools that the model is told of."""
        return []

    @property
    @abstractmethod
    def longest(self) -> int:
        """Most tokens of a response."""

    @property
    @abstractmethod
    def num_likely(self) -> int | None:
        """Log-probabilities of how many other tokens to tell; None for none at all."""

    @property
    def sampling(self) -> Serving:
        """How responses are drawn."""
        return Serving(
            temperature=1.0 if self.temperature is None else self.temperature,
            max_new_tokens=self.longest,
            top_p=1.0 if self.top_p is None else self.top_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.logit_bias or {},
            num_likely=self.num_likely,
        )

    @property
    def stops(self) -> list[str]:
        """Texts that end a response before them."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Asked):
    """A conversation to be answered; a last turn of the assistant's is continued."""

    messages: Annotated[list[ChatMessageIn], Field(min_length=1)]
    max_completion_tokens: Length | None = Field(None, description="The same as max_tokens, and before it.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[ToolIn] | None = Field(None, description="Shown to models whose chat template knows tools.")
    tool_choice: Literal["none", "auto"] | None = Field(None, description='"none" does not show them.')

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.messages[-1].role == "assistant" and len(self.messages) == 1:
            raise ValueError("the assistant's turn can only be continued after a turn of someone else's")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(
                400,
                "Invalid 'top_logprobs': 'logprobs' must be true when it is given.",
                code="invalid_value",
                param="top_logprobs",
            )
        return self

    @property
    def prompt_messages(self) -> list[Message]:
        """The conversation."""
        names = {call.id: call.function.name for message in self.messages for call in message.calls}
        return [message.record(names) for message in self.messages]

    @property
    def definitions(self) -> list[dict[str, JsonValue]]:
        """Of the tools that the model is told of."""
        return [] if self.tool_choice == "none" else [tool.model_dump() for tool in self.tools or []]

    @property
    def longest(self) -> int:
        """256 unless it is said."""
        return self.max_completion_tokens or self.max_tokens or 256

    @property
    def num_likely(self) -> int | None:
        """As many as ``top_logprobs`` says."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Asked):
    """A text to be continued as it stands, with no template around it."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompt_messages(self) -> list[Message]:
        """The text."""
        return [Message(role="user", content=self.prompt if isinstance(self.prompt, str) else self.prompt[0])]

    @property
    def longest(self) -> int:
        """16 unless it is said, as in the protocol."""
        return self.max_tokens or 16

    @property
    def num_likely(self) -> int | None:
        """As many as ``logprobs`` says."""
        return self.logprobs
