"""Reactions: what people say about answers in the chat, in the same log as all other judgements.

    thumb    up or down, with reasons: a rating of 7 or 1 with K = 1
    choice   which of two answers is better: the two of two-answer mode, blind and in random order, or one drawn again
             and the one before it, in the order in which they were read
    edit     the owner's own version, preferred to the model's: K = 2, and a demonstration

The prompt of the record is the conversation before the answer. Every line says whether it may train a model; nothing
is recorded before the owner was asked. Whoever withdraws consent takes back what was given under it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError, NotFoundError
from palate.feedback.chat import exchanges
from palate.feedback.chat.conversations import MAX_TEXT, Turn, prompt_before, settings_of, turns
from palate.feedback.store.tables import ChatMessage, Conversation, Judgement, User
from palate.feedback.tasks import judgements
from palate.records import Provenance, Ranking, Response

Kind = Literal["thumb", "choice", "edit"]

REASONS_UP = {
    "correct": "Correct",
    "complete": "Complete",
    "clear": "Clear and easy to read",
    "right_length": "The right length",
    "good_tone": "A pleasant tone",
}
REASONS_DOWN = {
    "off_task": "Not what I asked for",
    "hallucination": "Makes things up",
    "too_long": "Too long",
    "too_short": "Too short",
    "unclear": "Hard to follow",
    "bad_tone": "An unpleasant tone",
    "harmful_advice": "Harmful",
}
"""Where a flag of the labelling screen says the same, its name is used."""

SIDE_BY_SIDE, DRAWN_AGAIN = "side by side", "drawn again"
"""How two answers came to be compared: a choice's ``quality["how"]``."""


class Form(BaseModel):
    """What every reaction may carry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    comment: Annotated[str, Field(max_length=2000)] = ""


class ThumbForm(Form):
    """Up or down, and why."""

    up: bool
    reasons: Annotated[tuple[str, ...], Field(max_length=10)] = ()


class EditForm(Form):
    """The answer as its reader would like it."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class ChoiceForm(Form):
    """Which of the two answers on the screen is better: place 0 or 1, or None for about the same."""

    better: Annotated[int, Field(ge=0, le=1)] | None
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = None


class ComparisonForm(Form):
    """How an answer that was drawn again compares with the one before it."""

    verdict: Literal["better", "worse", "same"]


def give_consent(session: Session, user: User, conversation: Conversation, consent: bool) -> int:
    """Say whether feedback in a conversation may train a model; returns how many reactions were thereby taken back."""
    settings = settings_of(conversation)
    conversation.settings = settings.model_copy(update={"consent": consent}).model_dump()
    if consent:
        return 0
    return take_all_back(session, user, conversation, only_consented=True)


def take_all_back(session: Session, user: User, conversation: Conversation, *, only_consented: bool = False) -> int:
    """Withdraw every reaction in a conversation; returns how many there were."""
    ids = select(ChatMessage.id).where(ChatMessage.conversation_id == conversation.id)
    lines = session.scalars(_said_by(user).where(Judgement.message_id.in_(ids))).all()
    lines = [line for line in lines if line.consent or not only_consented]
    for line in lines:
        judgements.withdraw(session, user, line)
    return len(lines)


def thumb(
    session: Session,
    user: User,
    conversation: Conversation,
    message: ChatMessage,
    form: ThumbForm,
    *,
    now: float | None = None,
) -> Judgement:
    """Up or down; a second thumb replaces the first.

    Raises:
        ConflictError: consent was not asked for, the answer cannot be judged, or a reason is unknown.
    """
    _check_judged(message)
    known = REASONS_UP if form.up else REASONS_DOWN
    unknown = set(form.reasons) - known.keys()
    if unknown:
        raise ConflictError(f"no such reason: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    record = Ranking(
        prompt=prompt_before(session, conversation, message),
        responses=(_response(message),),
        ranks=(1,),
        ratings=(7 if form.up else 1,),
        flags=(tuple(dict.fromkeys(form.reasons)),) if form.reasons else None,
        labeler=user.name,
    )
    return _append(session, user, conversation, message, "thumb", record, comment=form.comment, now=now)


def edit(
    session: Session,
    user: User,
    conversation: Conversation,
    message: ChatMessage,
    form: EditForm,
    *,
    now: float | None = None,
) -> Judgement:
    """The owner's version of the last answer, with which the conversation goes on; a second one replaces the first.

    Raises:
        ConflictError: consent was not asked for, nothing was changed, or it is not the last answer.
    """
    _check_judged(message)
    so_far = turns(session, conversation)
    exchanges.check_last(so_far, message)
    if so_far[-1].pair:
        raise ConflictError("say first which of the two answers is better")
    if exchanges.check_text(form.text).strip() == message.content.strip():
        raise ConflictError("change something first, or give a thumb")
    record = Ranking(
        prompt=prompt_before(session, conversation, message),
        responses=(Response(text=form.text.strip()), _response(message)),
        ranks=(1, 2),
        labeler=user.name,
    )
    line = _append(session, user, conversation, message, "edit", record, comment=form.comment, now=now)
    exchanges.add_version(session, conversation, so_far[-1], form.text.strip(), now=line.created_at)
    return line


def choice(
    session: Session, user: User, conversation: Conversation, form: ChoiceForm, *, now: float | None = None
) -> Judgement:
    """Which of two answers is better; the conversation goes on with it, or with the first one shown.

    Raises:
        ConflictError: there are no two answers to choose from, or consent was not asked for.
    """
    so_far = turns(session, conversation)
    pair = so_far[-1].pair if so_far else ()
    if len(pair) != 2 or not all(exchanges.is_good(message) for message in pair):
        raise ConflictError("there are no two answers to choose from")
    order = exchanges.shown(pair)
    better = None if form.better is None else order[form.better]
    record = Ranking(
        prompt=prompt_before(session, conversation, pair[0]),
        responses=tuple(_response(message) for message in pair),
        ranks=(1, 1) if better is None else tuple(1 if index == better else 2 for index in range(2)),
        labeler=user.name,
        shown_order=order,
        seconds=form.seconds,
    )
    chosen = pair[order[0] if better is None else better]
    exchanges.go_on_with(so_far[-1], chosen)
    how = {"how": SIDE_BY_SIDE}
    return _append(session, user, conversation, chosen, "choice", record, comment=form.comment, quality=how, now=now)


def compare(
    session: Session,
    user: User,
    conversation: Conversation,
    message: ChatMessage,
    form: ComparisonForm,
    *,
    now: float | None = None,
) -> Judgement:
    """How an answer that was drawn again compares with the one before it.

    Raises:
        ConflictError: there is none before it, or consent was not asked for.
    """
    _check_judged(message)
    before = earlier(turns(session, conversation), message)
    if before is None:
        raise ConflictError("there is no earlier answer to compare this one with")
    record = Ranking(
        prompt=prompt_before(session, conversation, message),
        responses=(_response(before), _response(message)),
        ranks={"better": (2, 1), "worse": (1, 2), "same": (1, 1)}[form.verdict],
        labeler=user.name,
        shown_order=(0, 1),
    )
    how = {"how": DRAWN_AGAIN}
    return _append(session, user, conversation, message, "choice", record, comment=form.comment, quality=how, now=now)


def earlier(so_far: Iterable[Turn], message: ChatMessage) -> ChatMessage | None:
    """The model's answer that was read just before this one in its place; none if it came with another one."""
    variants = next(turn.variants for turn in so_far if turn.position == message.position)
    others = [each for each in variants if each.id != message.id and is_judged(each)]
    if not is_judged(message) or any(_seed(each) == _seed(message) for each in others):
        return None
    drawn = [each for each in others if each.variant < message.variant]
    return drawn[-1] if drawn else None


def take_back(session: Session, user: User, message: ChatMessage, kind: Kind) -> None:
    """Withdraw a reaction to an answer.

    Raises:
        NotFoundError: there is none of that kind.
    """
    line = _current(session, user, message, kind)
    if line is None:
        raise NotFoundError("there is nothing to take back")
    judgements.withdraw(session, user, line)


def said_about(session: Session, user: User, message_ids: Sequence[str]) -> Sequence[Judgement]:
    """What somebody now says about these answers."""
    return session.scalars(_said_by(user).where(Judgement.message_id.in_(message_ids))).all()


def is_judged(message: ChatMessage) -> bool:
    """Whether this is an answer that can be judged: a model's, with something in it."""
    return message.provenance is not None and exchanges.is_good(message)


def _said_by(user: User) -> Select[Judgement]:
    return judgements.current().where(Judgement.user_id == user.id)


def _check_judged(message: ChatMessage) -> None:
    if message.state == "streaming":
        raise ConflictError("the answer is still being written")
    if not is_judged(message):
        raise ConflictError("there is no model's answer to judge here")


def _seed(message: ChatMessage) -> int:
    """The two answers of two-answer mode have theirs in common, and no others have."""
    return Provenance.model_validate(message.provenance).seed


def _response(message: ChatMessage) -> Response:
    return Response(text=message.content, provenance=Provenance.model_validate(message.provenance))


def _current(session: Session, user: User, message: ChatMessage, kind: Kind) -> Judgement | None:
    return next((line for line in said_about(session, user, [message.id]) if line.kind == kind), None)


def _append(
    session: Session,
    user: User,
    conversation: Conversation,
    message: ChatMessage,
    kind: Kind,
    record: Ranking,
    *,
    comment: str,
    quality: dict[str, Any] | None = None,
    now: float | None,
) -> Judgement:
    consent = settings_of(conversation).consent
    if consent is None:
        raise ConflictError("say first whether your feedback in this conversation may train a model")
    return judgements.append(
        session,
        kind,
        record.model_dump(mode="json", exclude_defaults=True),
        user,
        message_id=message.id,
        supersedes=_current(session, user, message, kind),
        seconds=record.seconds,
        comment=comment,
        quality=quality,
        consent=consent,
        now=time.time() if now is None else now,
    )
