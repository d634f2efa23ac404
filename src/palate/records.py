"""What people write and judge, as text.

Records are frozen, validated when they are made, and survive a round trip through JSON. An id is a hash of what the
record says, so the same prompt has the same id in every file, on every machine and in every round.

    ToolCall         a tool that the assistant wants called
    Message          one turn of a conversation
    Prompt           the conversation so far, ending where the assistant is to answer
    Provenance       where a sampled response came from
    Selection, Fit   how it was taken from among several that were drawn
    Revision         how a draft was criticised by a principle and written anew
    Response         one answer to a prompt
    Candidates       a prompt and K answers waiting to be judged
    Demonstration    a prompt and the answer a person would like to see
    Ranking          a judgement of K answers: a pair is K = 2, a thumb is a rating with K = 1

A response has no prompt field of its own: it always travels inside a record that holds its prompt once.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Role = Literal["system", "user", "assistant", "tool"]
Source = Literal["human", "simulated", "ai", "forum", "thumbs", "trees", "template", "abstention"]
"""Where a judgement comes from; the last five are mined (`palate data mine`)."""
AI = "ai:"
"""Before the name of a model that judged, or wrote a demonstration, where people have their own."""


class Record(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """One line of JSON without the fields that were left empty."""
        return self.model_dump_json(exclude_defaults=True)


def content_id(*parts: str) -> str:
    """16 hexadecimal digits that depend on the parts and their order alone."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def text_id(text: str) -> str:
    """The same for texts that differ in case and white space alone, however they were encoded."""
    return content_id(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))


class ToolCall(Record):
    """A tool that the assistant wants called.

    Attributes:
        arguments: as JSON text, as the model wrote it.
        id: by which the turn with the tool's result names it.
    """

    name: str
    arguments: str = "{}"
    id: str = ""


class Message(Record):
    """One turn of a conversation.

    Attributes:
        tool_calls: what the assistant wants called; the content may then be empty.
        tool_call_id: of a tool's turn: the call that it answers.
        name: of the tool that answers, or of the speaker.
        learn: False for a turn of the assistant's that is context and must not be learned; not part of what it says.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    learn: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        """What the turn says, for an id: role and content, and all else where there is any."""
        if not (self.tool_calls or self.tool_call_id or self.name):
            return (self.role, self.content)
        more = self.model_dump_json(exclude_defaults=True, exclude={"role", "content", "learn"})
        return (self.role, self.content, more)


class Prompt(Record):
    """A conversation that the assistant is to continue.

    Attributes:
        messages: at least one; the last one is not the assistant's.
        tools: definitions of the tools that the assistant may call, as the chat template wants them.
        tags: what is known about the prompt (topic, source file, split); not part of its identity.
    """

    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    tools: tuple[Mapping[str, JsonValue], ...] = ()
    tags: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.messages[-1].role == "assistant":
            raise ValueError("a prompt ends with a user or system turn (or a tool's), not the assistant's")
        return self

    @classmethod
    def from_text(cls, text: str, *, system: str | None = None, tags: Mapping[str, str] | None = None) -> Prompt:
        """A single user turn, after a system turn if one is given."""
        head = (Message(role="system", content=system),) if system is not None else ()
        return cls(messages=(*head, Message(role="user", content=text)), tags=tags or {})

    @property
    def id(self) -> str:
        """Hash of the messages, and of the tools where there are any."""
        tools = (json.dumps(self.tools, sort_keys=True),) if self.tools else ()
        return content_id(*(part for message in self.messages for part in message.parts), *tools)

    @property
    def has_tools(self) -> bool:
        """Whether tools may be called, are called or answer in it."""
        return bool(self.tools) or any(turn.role == "tool" or turn.tool_calls for turn in self.messages)

    @property
    def text(self) -> str:
        """The last turn's content: what a person would say the question was."""
        return self.messages[-1].content


class Fit(Record):
    """How far responses follow a principle of their reader's.

    Attributes:
        principle: as the reader has written it.
        scores: [n] log-odds of Yes against No, as a model judges.
    """

    principle: str
    scores: tuple[float, ...]


class Selection(Record):
    """How one of n responses that were drawn for the same prompt came to be the answer.

    Attributes:
        texts: [n] what they say, in the order of their numbers.
        scores: [n] by the reward, the reader's principles among it.
        chosen: index of the one that was taken.
        at_random: by lot, whatever the scores, so that the others have something to be compared with.
        random_share: how likely that was; with ``seed`` and the seed of the provenance the lot can be drawn again.
        kl_bound: log n - (n - 1) / n nats, the most that taking the best of n moves a response from the model's own.
        rewards: the terms of the reward, as a recipe has them.
        checkpoints: hashes of the weights of their models, by name.
        fits: how far they follow each of the reader's principles, if there are any.
        judge: the model that said so.
        principle_weight: of each principle in the scores.
    """

    texts: Annotated[tuple[str, ...], Field(min_length=2)]
    scores: tuple[float, ...]
    chosen: Annotated[int, Field(ge=0)]
    at_random: bool = False
    random_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: int = 0
    kl_bound: float
    rewards: tuple[Mapping[str, JsonValue], ...] = ()
    checkpoints: Mapping[str, str] = {}
    fits: tuple[Fit, ...] = ()
    judge: str = ""
    principle_weight: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.chosen < len(self.texts) == len(self.scores):
            raise ValueError(f"response {self.chosen} of {len(self.texts)}, of which {len(self.scores)} have a score")
        if any(len(fit.scores) != len(self.texts) for fit in self.fits):
            raise ValueError("a principle has no score for some of the responses")
        return self


class Revision(Record):
    """A round: a model criticised its draft by a principle; what it wrote then is the next draft, or the response.

    Attributes:
        principle: its name.
        constitution: hash of the file that it stands in.
    """

    principle: str
    constitution: str
    draft: str
    critique: str


class Provenance(Record):
    """Where a sampled response came from, enough to sample it again.

    Attributes:
        model: path or name of the model.
        checkpoint: hash of its weights.
        seed, sample_index: with the prompt they determine the random numbers.
        logprob: sum over the response tokens, under the sampling distribution, in nats.
        ended: False when the response was cut off by ``max_new_tokens``.
        selection: how it was taken from among several; without, it is the only one that was drawn.
        revisions: how it came to be what it is, round by round; without, it is as it was drawn.
    """

    model: str
    checkpoint: str = ""
    temperature: float = 1.0
    max_new_tokens: int = 0
    seed: int = 0
    sample_index: int = 0
    logprob: float | None = None
    ended: bool = True
    selection: Selection | None = None
    revisions: tuple[Revision, ...] = ()


class Response(Record):
    """One answer to a prompt; people's own writing has no provenance.

    Attributes:
        tool_calls: what the assistant wants called; the text may then be empty.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    provenance: Provenance | None = None

    @property
    def message(self) -> Message:
        """The response as the assistant's turn."""
        return Message(role="assistant", content=self.text, tool_calls=self.tool_calls)

    @property
    def parts(self) -> tuple[str, ...]:
        """What it says, for an id: the text, and the calls where there are any."""
        return (self.text, *self.message.parts[2:]) if self.tool_calls else (self.text,)


class Candidates(Record):
    """A prompt and K answers waiting to be judged."""

    prompt: Prompt
    responses: Annotated[tuple[Response, ...], Field(min_length=1)]


class Demonstration(Record):
    """A prompt and the answer its author would like to see."""

    prompt: Prompt
    response: Response
    author: str = ""

    @property
    def id(self) -> str:
        """Hash of prompt and response."""
        return content_id(self.prompt.id, *self.response.parts)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, the response as its last turn."""
        return (*self.prompt.messages, self.response.message)


class Ranking(Record):
    """One labeler's judgement of K responses to one prompt.

    Attributes:
        ranks: [K], 1 is best, equal ranks are ties; the best rank present is 1.
        ratings: [K], worded Likert points 1 to 7; a thumb is 7 (up) or 1 (down) with K = 1.
        flags: [K], the yes/no labels set for each response; None where nobody was asked for any.
        flags_offered: which could be set; None where nobody noted it.
        strength: how strongly the first rank is preferred, for pairs that say so; used as a margin.
        shown_order: [K], the index of the response shown in each place.
        seconds: time the labeler took.
    """

    prompt: Prompt
    responses: Annotated[tuple[Response, ...], Field(min_length=1)]
    ranks: tuple[Annotated[int, Field(ge=1)], ...]
    ratings: tuple[Annotated[float, Field(ge=1, le=7)], ...] | None = None
    flags: tuple[tuple[str, ...], ...] | None = None
    flags_offered: tuple[str, ...] | None = None
    strength: Annotated[float, Field(ge=0)] | None = None
    labeler: str = ""
    shown_order: tuple[int, ...] | None = None
    guideline_version: str = ""
    seconds: Annotated[float, Field(ge=0)] | None = None
    source: Source = "human"

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = len(self.responses)
        for name in ("ranks", "ratings", "flags", "shown_order"):
            field = getattr(self, name)
            if field is not None and len(field) != count:
                raise ValueError(f"{name} has {len(field)} entries for {count} responses")
        if min(self.ranks) != 1:
            raise ValueError("the best response has rank 1")
        if self.shown_order is not None and sorted(self.shown_order) != list(range(count)):
            raise ValueError("shown_order must name every response once")
        return self

    @property
    def id(self) -> str:
        """Hash of prompt, responses, labeler and ranks."""
        texts = (part for response in self.responses for part in response.parts)
        return content_id(self.prompt.id, *texts, self.labeler, *map(str, self.ranks))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(better, worse) indices of every strictly ordered pair."""
        indices = range(len(self.ranks))
        return tuple((i, j) for i in indices for j in indices if self.ranks[i] < self.ranks[j])
