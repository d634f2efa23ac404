"""Conversations of people with models: whose they are, how they are held, and what was said in them.

    position 0    what the owner wrote
    position 1    the answer, in one variant or several, of which one is chosen and continued
    position 2    what the owner wrote then, and so on

How a conversation goes on is in `exchanges`, what people say about answers in `reactions`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store.policies import policy_of
from palate.feedback.store.tables import ChatMessage, Conversation, User
from palate.records import Message, Prompt

MAX_TEXT = 20_000
MOST_LISTED = 200
TITLE_LENGTH = 60


MOST_PRINCIPLES, LONGEST_PRINCIPLE = 8, 200


def _on_a_line(text: str) -> str:
    return " ".join(text.split())


Principle = Annotated[str, AfterValidator(_on_a_line), Field(min_length=1, max_length=LONGEST_PRINCIPLE)]
Principles = Annotated[tuple[Principle, ...], Field(max_length=MOST_PRINCIPLES)]
"""What readers ask of answers to them, each on a line of its own."""


class ChatSettings(BaseModel):
    """How a conversation is held.

    Attributes:
        two_answers: two responses to every message, blind, of which the better one is chosen.
        second_model_id: draws one of the two; None lets the conversation's model draw both.
        principles: the owner's own, by which an answer is chosen where it is the best of several.
        consent: whether feedback may train a model; None until the owner was asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    two_answers: bool = False
    second_model_id: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.7
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    principles: Principles = ()
    consent: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The variants at one position, in their order."""

    position: int
    variants: tuple[ChatMessage, ...]

    @property
    def chosen(self) -> ChatMessage | None:
        """The variant that is continued."""
        return next((message for message in self.variants if message.is_chosen), None)

    @property
    def pair(self) -> tuple[ChatMessage, ...]:
        """The two answers that wait to be chosen from, in the order of their variants."""
        return () if self.chosen else self.variants[-2:]

    @property
    def is_streaming(self) -> bool:
        """Whether an answer is still being written."""
        return any(message.state == "streaming" for message in self.variants)


def start(
    session: Session, user: User, model_id: str, settings: ChatSettings | None = None, *, now: float | None = None
) -> Conversation:
    """An empty conversation.

    Raises:
        NotFoundError: no such model.
    """
    settings = settings or ChatSettings()
    _check_models(session, model_id, settings)
    now = time.time() if now is None else now
    conversation = Conversation(
        user_id=user.id, model_id=model_id, settings=settings.model_dump(), created_at=now, updated_at=now
    )
    session.add(conversation)
    session.flush()
    return conversation


def listed(session: Session, user: User) -> Sequence[Conversation]:
    """This person's conversations, the last used first."""
    mine = select(Conversation).where(Conversation.user_id == user.id, Conversation.deleted_at.is_(None))
    return session.scalars(mine.order_by(Conversation.updated_at.desc(), Conversation.id).limit(MOST_LISTED)).all()


def conversation_of(session: Session, user: User, conversation_id: str, *, hold: bool = False) -> Conversation:
    """This person's conversation.

    Args:
        hold: in a write transaction, keep other requests about it waiting until this one ends.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
    """
    found = session.get(Conversation, conversation_id, with_for_update=hold or None, populate_existing=hold)
    if found is None or found.user_id != user.id or found.deleted_at is not None:
        raise NotFoundError("no such conversation")
    return found


def answer_of(session: Session, user: User, message_id: str) -> tuple[Conversation, ChatMessage]:
    """An answer in one of this person's conversations, which is held.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
    """
    message = session.get(ChatMessage, message_id)
    if message is None:
        raise NotFoundError("no such conversation")
    conversation = conversation_of(session, user, message.conversation_id, hold=True)
    session.refresh(message)
    if message.role != "assistant" or message.state == "replaced":
        raise NotFoundError("no such answer")
    return conversation, message


def turns(session: Session, conversation: Conversation) -> list[Turn]:
    """The conversation from its beginning."""
    rows = session.scalars(
        select(ChatMessage)
        .where(ChatMessage.conversation_id == conversation.id, ChatMessage.state != "replaced")
        .order_by(ChatMessage.position, ChatMessage.variant)
        .execution_options(populate_existing=True)
    )
    return [Turn(position=at, variants=tuple(each)) for at, each in groupby(rows, key=lambda row: row.position)]


def settings_of(conversation: Conversation) -> ChatSettings:
    """How this conversation is held."""
    return ChatSettings.model_validate(conversation.settings)


def change_settings(session: Session, conversation: Conversation, changes: dict[str, Any]) -> None:
    """Other settings from the next message on; consent is given and withdrawn in `reactions`.

    Raises:
        NotFoundError: no such model.
    """
    assert "consent" not in changes
    settings = ChatSettings.model_validate(conversation.settings | changes)
    _check_models(session, conversation.model_id, settings)
    conversation.settings = settings.model_dump()


def change_model(session: Session, conversation: Conversation, model_id: str) -> None:
    """Another model from the next message on.

    Raises:
        NotFoundError: no such model.
    """
    conversation.model_id = policy_of(session, model_id).id


def rename(conversation: Conversation, title: str) -> None:
    """Another title.

    Raises:
        ConflictError: it is blank.
    """
    conversation.title = title_of(title)
    if not conversation.title:
        raise ConflictError("a title has at least one character")


def erase(session: Session, conversation: Conversation, *, now: float | None = None) -> None:
    """Delete a conversation: its texts are gone, save those that the log of judgements holds.

    Raises:
        ConflictError: an answer is being written in it.
    """
    check_quiet(turns(session, conversation))
    conversation.deleted_at, conversation.title = time.time() if now is None else now, ""
    conversation.settings = settings_of(conversation).model_copy(update={"principles": ()}).model_dump()
    session.execute(
        update(ChatMessage).where(ChatMessage.conversation_id == conversation.id).values(content="", provenance=None)
    )


def prompt_before(session: Session, conversation: Conversation, message: ChatMessage) -> Prompt:
    """The conversation that a message answers."""
    return Prompt(
        messages=messages_of(turn for turn in turns(session, conversation) if turn.position < message.position)
    )


def messages_of(turns: Iterable[Turn]) -> tuple[Message, ...]:
    """What was said, as a model is told it."""
    chosen = (turn.chosen for turn in turns)
    return tuple(Message(role=_role(message), content=message.content) for message in chosen if message)


def title_of(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def check_quiet(so_far: Sequence[Turn]) -> None:
    """Raises:
    ConflictError: an answer is being written.
    """
    if any(turn.is_streaming for turn in so_far):
        raise ConflictError("an answer is being written: wait for it, or stop it")


def _check_models(session: Session, model_id: str, settings: ChatSettings) -> None:
    for each in (model_id, settings.second_model_id):
        if each is not None:
            policy_of(session, each)


def _role(message: ChatMessage) -> Literal["user", "assistant"]:
    return "user" if message.role == "user" else "assistant"
