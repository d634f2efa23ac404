"""Exchanges: what the owner of a conversation says, and room for the answers to it.

Only the end of a conversation changes: its last answer can be drawn again, another variant of it chosen, and the
owner's last message worded anew; what was there before is then "replaced", and kept because judgements may speak of
it. In two-answer mode both answers wait unchosen, shown in an order that only `shown` knows, until one is chosen.

The text of an answer is written by whoever draws it (`save`, `end`); what people say about answers is in `reactions`.
Left out: going back to an earlier wording, and branches in the middle.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from palate.errors import ConflictError
from palate.feedback.chat.conversations import (
    ChatSettings,
    Turn,
    check_quiet,
    messages_of,
    settings_of,
    title_of,
    turns,
)
from palate.feedback.store.policies import policy_of
from palate.feedback.store.tables import ChatMessage, Conversation, new_id
from palate.randomness import permutation
from palate.records import Message, Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that is to be drawn, and the message that will hold it."""

    message_id: str
    model: str
    sample_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """All that is needed to draw the answers of one turn.

    Attributes:
        answers: one, or two in the order of their variants.
        shown: the index of the answer in each place on the screen.
        principles: by which the owner wants the answer to be chosen.
    """

    conversation_id: str
    messages: tuple[Message, ...]
    answers: tuple[Answer, ...]
    shown: tuple[int, ...]
    temperature: float
    max_new_tokens: int
    seed: int
    principles: tuple[str, ...] = ()


def say(session: Session, conversation: Conversation, text: str, *, now: float | None = None) -> Ask:
    """Add the owner's message and room for the answers to it.

    Raises:
        ConflictError: the text is blank, or the last answer is not one to go on from.
    """
    now = time.time() if now is None else now
    text = check_text(text)
    so_far = turns(session, conversation)
    check_quiet(so_far)
    if so_far:
        _check_continuable(so_far[-1])
    position = so_far[-1].position + 1 if so_far else 0
    _add(session, conversation, position, "user", text, now=now)
    if not conversation.title:
        conversation.title = title_of(text)
    return _ask(session, conversation, now)


def reword(session: Session, conversation: Conversation, text: str, *, now: float | None = None) -> Ask:
    """Word the owner's last message anew; the answers to the old wording are replaced.

    Raises:
        ConflictError: there is no message yet, the text is blank, or an answer is being written.
    """
    now = time.time() if now is None else now
    text = check_text(text)
    so_far = turns(session, conversation)
    check_quiet(so_far)
    last = next((turn for turn in reversed(so_far) if turn.variants[0].role == "user"), None)
    if last is None:
        raise ConflictError("there is no message to change yet")
    for turn in so_far:
        if turn.position >= last.position:
            for message in turn.variants:
                message.state = "replaced"
    session.flush()
    _add(session, conversation, last.position, "user", text, now=now)
    return _ask(session, conversation, now)


def again(session: Session, conversation: Conversation, *, now: float | None = None) -> Ask:
    """Room for another answer to the last message.

    Raises:
        ConflictError: there is no answer yet, one is being written, or two wait to be chosen from.
    """
    so_far = turns(session, conversation)
    check_quiet(so_far)
    if len(so_far) < 2:
        raise ConflictError("there is no answer to draw again yet")
    if any(is_good(message) for message in so_far[-1].pair):
        raise ConflictError("choose one of the two answers first")
    for message in so_far[-1].variants:
        message.is_chosen = False
    return _ask(session, conversation, time.time() if now is None else now)


def choose(session: Session, conversation: Conversation, message: ChatMessage) -> None:
    """Go on with this variant of the last answer.

    Raises:
        ConflictError: it is not of the last answer, or not one to go on from.
    """
    so_far = turns(session, conversation)
    check_quiet(so_far)
    check_last(so_far, message)
    if so_far[-1].pair:
        raise ConflictError("say which of the two answers is better")
    go_on_with(so_far[-1], message)


def go_on_with(turn: Turn, message: ChatMessage) -> None:
    """Make this variant the chosen one."""
    for variant in turn.variants:
        variant.is_chosen = variant.id == message.id


def check_last(so_far: Sequence[Turn], message: ChatMessage) -> None:
    """Raises:
    ConflictError: the conversation has gone on since this answer.
    """
    if message.position != so_far[-1].position:
        raise ConflictError("the conversation has gone on: only its last answer can be changed")


def add_version(session: Session, conversation: Conversation, turn: Turn, text: str, *, now: float) -> ChatMessage:
    """The owner's own version of the last answer, with which the conversation goes on."""
    row = _add(session, conversation, turn.position, "assistant", text, now=now)
    go_on_with(turn, row)
    return row


def save(session: Session, message_id: str, text: str) -> None:
    """Keep what is written so far."""
    session.execute(
        update(ChatMessage)
        .where(ChatMessage.id == message_id, ChatMessage.state == "streaming")
        .values(content=text)
        .execution_options(synchronize_session=False)
    )


def end(session: Session, message_id: str, text: str, state: str, provenance: Provenance | None = None) -> None:
    """The answer is written, stopped or failed; the text of a failed one says why.

    Where one of two answers has failed, the conversation goes on with the other.
    """
    message = session.get_one(ChatMessage, message_id)
    if message.state != "streaming":
        return
    message.content, message.state = text, state
    if provenance is not None:
        message.provenance = provenance.model_dump(mode="json", exclude_defaults=True)
    session.flush()
    last = turns(session, session.get_one(Conversation, message.conversation_id))[-1]
    good = [each for each in last.pair if is_good(each)]
    if last.pair and not last.is_streaming and len(good) == 1:
        good[0].is_chosen = True


def being_written(session: Session) -> set[str]:
    """The conversations in which an answer is being written, or was when its process died."""
    return set(session.scalars(select(ChatMessage.conversation_id).where(ChatMessage.state == "streaming")))


def reconcile(session: Session, conversation: Conversation | None = None) -> int:
    """Where nobody is writing, what was being written is stopped: everywhere after a start, or in one conversation."""
    left = select(ChatMessage).where(ChatMessage.state == "streaming")
    if conversation is not None:
        left = left.where(ChatMessage.conversation_id == conversation.id)
    found = session.scalars(left).all()
    for message in found:
        end(session, message.id, message.content, "stopped")
    return len(found)


def shown(pair: Sequence[ChatMessage]) -> tuple[int, ...]:
    """The index of the answer in each place: at random for every pair, the same whenever one looks."""
    return tuple(int(index) for index in permutation(len(pair), "shown", *(message.id for message in pair)))


def is_good(message: ChatMessage) -> bool:
    """Whether there is an answer that can be judged and continued."""
    return message.state == "done" or (message.state == "stopped" and bool(message.content.strip()))


def check_text(text: str) -> str:
    """The text as it was written.

    Raises:
        ConflictError: it is blank.
    """
    if not text.strip():
        raise ConflictError("write something first")
    return text


def _ask(session: Session, conversation: Conversation, now: float) -> Ask:
    """Make room for the answers to what is there."""
    settings = settings_of(conversation)
    before = [turn for turn in turns(session, conversation) if turn.chosen]
    position = before[-1].position + 1
    seed = secrets.randbelow(2**31)
    rows, answers = [], []
    models = _models(session, conversation, settings)
    for index, model in enumerate(models):
        row = _add(session, conversation, position, "assistant", "", now=now, state="streaming")
        row.is_chosen = len(models) == 1
        row.provenance = _planned(model, settings, seed, index)
        rows.append(row)
        answers.append(Answer(message_id=row.id, model=model, sample_index=index))
    conversation.updated_at = now
    session.flush()
    return Ask(
        conversation_id=conversation.id,
        messages=messages_of(before),
        answers=tuple(answers),
        shown=shown(rows),
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        principles=settings.principles,
    )


def _planned(model: str, settings: ChatSettings, seed: int, index: int) -> dict[str, Any]:
    """Provenance of a response that is not finished, and may never be."""
    drawn = Provenance(
        model=model,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        sample_index=index,
        ended=False,
    )
    return drawn.model_dump(mode="json", exclude_defaults=True)


def _models(session: Session, conversation: Conversation, settings: ChatSettings) -> list[str]:
    """Path of the model of each answer."""
    if not settings.two_answers:
        return [policy_of(session, conversation.model_id).path]
    second = settings.second_model_id or conversation.model_id
    return [policy_of(session, model_id).path for model_id in (conversation.model_id, second)]


def _check_continuable(last: Turn) -> None:
    if last.pair and any(is_good(message) for message in last.pair):
        raise ConflictError("say first which of the two answers is better")
    if last.chosen is None or not is_good(last.chosen):
        raise ConflictError("there is no answer to go on from: draw it again, or change your message")


def _next_variant(session: Session, conversation: Conversation, position: int) -> int:
    here = (ChatMessage.conversation_id == conversation.id, ChatMessage.position == position)
    last = session.scalar(select(func.max(ChatMessage.variant)).where(*here))
    return 0 if last is None else last + 1


def _add(
    session: Session,
    conversation: Conversation,
    position: int,
    role: str,
    text: str,
    *,
    now: float,
    state: str = "done",
) -> ChatMessage:
    row = ChatMessage(
        id=new_id(),
        conversation_id=conversation.id,
        position=position,
        variant=_next_variant(session, conversation, position),
        role=role,
        content=text,
        state=state,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row
