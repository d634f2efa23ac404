"""What the web process and the worker that holds the models say to each other: one line of JSON each.

    Load, Unload, Generate, Cancel      from the web process
    Piece, Done, Scored, Loaded,
    Unloaded, Cancelled, Failed         from the worker, each with the id of the request it is about

A generation gives pieces, then one `Done` for each of its responses, then one `Scored` if a reward or a principle was
named; or one `Failed` and nothing after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from palate.recipe import ReaderJudge, Reward, Section
from palate.records import Prompt, Record, Response


class Serving(Section):
    """How a response is drawn for someone who reads it; in training it is always the full distribution.

    The fields from ``top_p`` on are those of `rollout.shaping.Shaping`.
    """

    temperature: float = Field(0.7, ge=0, allow_inf_nan=False, description="0 gives the most likely token each time.")
    max_new_tokens: int = Field(256, gt=0, description="Longest response.")
    top_p: float = Field(1.0, ge=0, le=1, description="Draw from the likeliest tokens that together have so much.")
    presence_penalty: float = Field(0.0, description="Taken from the logits of tokens that were drawn already.")
    frequency_penalty: float = Field(0.0, description="The same for each time that they were.")
    logit_bias: Mapping[int, float] = Field({}, description="Added to the logits of these tokens.")
    num_likely: int | None = Field(None, ge=0, description="Tell each token's log-probability, and so many others.")

    @property
    def shaping(self) -> dict[str, Any]:
        """What changes the distribution or is told about it; empty when nothing does."""
        return self.model_dump(exclude={"temperature", "max_new_tokens"}, exclude_defaults=True)


class Load(Record):
    """Have a model ready."""

    op: Literal["load"] = "load"
    id: str
    model: str


class Unload(Record):
    """Forget a model; generations under way still end."""

    op: Literal["unload"] = "unload"
    id: str
    model: str


class Generate(Record):
    """Respond to a prompt.

    Attributes:
        model: path or name; loaded first if need be.
        seed, sample_index: with the prompt they determine the random numbers, as in `Provenance`.
        num_responses: with sample indices from ``sample_index`` on, decoded side by side.
        begun: how the assistant's turn begins; the responses are what follows it.
        raw: the prompt is a text to be continued as it stands, not a conversation.
        rewards: terms of the reward that all the responses get a score from once they are drawn.
        principles: of the reader's, which are a part of that score, as ``judge`` sees them.
    """

    op: Literal["generate"] = "generate"
    id: str
    model: str
    prompt: Prompt
    sampling: Serving = Serving()
    seed: int = 0
    sample_index: Annotated[int, Field(ge=0)] = 0
    num_responses: Annotated[int, Field(ge=1, le=16)] = 1
    begun: str = ""
    raw: bool = False
    rewards: tuple[Reward, ...] = ()
    principles: tuple[str, ...] = ()
    judge: ReaderJudge | None = None

    @property
    def is_scored(self) -> bool:
        """Whether a `Scored` follows the responses."""
        return bool(self.rewards or self.principles)


class Cancel(Record):
    """End the generation with this id; one that has ended already is no error."""

    op: Literal["cancel"] = "cancel"
    id: str


class Token(Record):
    """A token as text, and how likely the model itself found it, in nats."""

    text: str
    logprob: float


class Chosen(Token):
    """The token that was drawn, and the most likely ones in its place, best first."""

    likely: tuple[Token, ...] = ()


class Piece(Record):
    """More text of one response; the pieces joined are its text. ``chosen`` is there if ``num_likely`` was given."""

    type: Literal["piece"] = "piece"
    id: str
    index: int
    text: str
    chosen: Chosen | None = None


class Done(Record):
    """The end of one response.

    Attributes:
        index: which one, from 0.
        response: its whole text and its provenance.
        finish_reason: a stop token was drawn, or ``max_new_tokens`` were.
        prompt_tokens, response_tokens: how many; a stop token counts.
    """

    type: Literal["done"] = "done"
    id: str
    index: int
    response: Response
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    response_tokens: int


class Scored(Record):
    """What the responses are worth.

    Attributes:
        scores: [n] in the order of their indices.
        kl_bound: log n - (n - 1) / n nats, for whoever takes the best of them.
        checkpoints: hashes of the weights of the reward models, by name, and of a judge that runs here.
        fits: [P][n] how far they follow each principle: log-odds of Yes against No, without the weight they have.
    """

    type: Literal["scored"] = "scored"
    id: str
    scores: tuple[float, ...]
    kl_bound: float
    checkpoints: Mapping[str, str]
    fits: tuple[tuple[float, ...], ...] = ()


class Loaded(Record):
    """A model is ready; ``weights`` is the hash of its files."""

    type: Literal["loaded"] = "loaded"
    id: str
    model: str
    weights: str


class Unloaded(Record):
    """A model is forgotten, or was not there."""

    type: Literal["unloaded"] = "unloaded"
    id: str
    model: str


class Cancelled(Record):
    """A generation was under way and has ended; nothing more follows."""

    type: Literal["cancelled"] = "cancelled"
    id: str


class Failed(Record):
    """A request that came to nothing.

    Attributes:
        kind: name of the exception: ``DataError`` (the prompt does not fit), ``TemplateError`` (roles that the model
            does not know), ``RecipeError`` (a bias for a token that it has not), ``ModelError`` (no such model, or one
            that cannot be used), ``WorkerDied``; others are bugs.
        message: one line.
    """

    type: Literal["error"] = "error"
    id: str
    kind: str
    message: str


Request: TypeAlias = Load | Unload | Generate | Cancel
Event: TypeAlias = Piece | Done | Scored | Loaded | Unloaded | Cancelled | Failed

REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="op")])
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def line(message: Record) -> bytes:
    """One line; empty fields are written too, for the kind of a message is one of them."""
    return message.model_dump_json().encode() + b"\n"
