"""The people who label: what each has done, and what an admin may change about them.

Nothing here changes a judgement. A pause, another role or a lower weight holds from now on; held-out and weight decide
at training time what is used (`judgements.for_training`). Every change is an event of the audit trail.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store import people
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch, Event, Invitation, Item, Judgement, Login, PromptRow, Task, Token, User
from palate.feedback.tasks import judgements, meetings
from palate.feedback.tasks.meetings import Meeting
from palate.intervals import Estimate
from palate.records import Prompt

MAX_WEIGHT = 10.0
RESAMPLES = 400
CHANGED = "changed a person"


class Changes(BaseModel):
    """What is to be different about a person; what is not named stays.

    Attributes:
        screening: the outcome as an admin decides it.
        tasks_per_day: None takes the limit away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["admin", "researcher", "reviewer", "labeler", "chat"] = "labeler"
    is_paused: bool = False
    is_held_out: bool = False
    screening: Literal["passed", "failed"] = "passed"
    tasks_per_day: Annotated[int, Field(ge=0, le=10_000)] | None = None
    weight: Annotated[float, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeler:
    """A person and what they have done.

    Attributes:
        num_done: tasks handed in.
        seconds: median over their judgements; None before the first.
        agreement: with others who judged the same items.
        num_others: people they met on an item.
        last_seen: None if never.
    """

    user: User
    num_done: int
    seconds: float | None
    agreement: Estimate
    num_others: int
    last_seen: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One judgement of a person.

    Attributes:
        agreement: share of verdicts that others on the same item gave too; None where nobody else was asked yet.
    """

    item_id: str | None
    batch: str
    batch_kind: str
    is_screening: bool
    prompt: str
    at: float
    seconds: float | None
    nudges: tuple[str, ...]
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What was read of everyone, by user id."""

    users: Sequence[User]
    done: Mapping[str, int]
    seconds: Mapping[str, Sequence[float]]
    seen: Mapping[str, float]
    met: Mapping[str, Sequence[Meeting]]


def labelers(store: Store, user_id: str | None = None) -> list[Labeler]:
    """Everyone by name, or one person.

    Raises:
        NotFoundError: there is no such person.
    """
    with store.read() as session:
        work = _work(session, user_id)
    return [_labeler(work, user) for user in work.users]


def person_of(session: Session, user_id: str) -> User:
    """A person by id.

    Raises:
        NotFoundError: there is none.
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFoundError("no such person")
    return user


def history(session: Session, user: User, *, limit: int = 50) -> list[Done]:
    """What somebody handed in, as it now stands, the latest first."""
    agreements = {
        item_id: meetings.share(met)
        for item_id, met in meetings.grouped(meetings_of(session, user), lambda meeting: meeting.item_id).items()
    }
    lines = (
        judgements.current()
        .join(Item, Item.id == Judgement.item_id)
        .join(Batch, Batch.id == Item.batch_id)
        .join(PromptRow, PromptRow.id == Item.prompt_id)
        .where(Judgement.user_id == user.id)
        .with_only_columns(Judgement, Batch, PromptRow)
        .order_by(None)
        .order_by(Judgement.number.desc())
        .limit(limit)
    )
    return [
        Done(
            item_id=line.item_id,
            batch=batch.name,
            batch_kind=batch.kind,
            is_screening=batch.is_screening,
            prompt=Prompt.model_validate(prompt.record).text,
            at=line.created_at,
            seconds=line.seconds,
            nudges=tuple(line.quality.get("nudges", ())),
            agreement=agreements.get(line.item_id or ""),
        )
        for line, batch, prompt in session.execute(lines)
    ]


def meetings_of(session: Session, user: User) -> list[Meeting]:
    """Where somebody met others."""
    mine = select(Judgement.item_id).where(Judgement.user_id == user.id, Judgement.item_id.is_not(None))
    met = meetings.meetings(meetings.opinions(session, Item.id.in_(mine)))
    return meetings.by_person(met).get(user.id, [])


def change(session: Session, user: User, changes: Changes, *, by: User, now: float | None = None) -> None:
    """Make changes and put them on record; another role ends the person's sessions.

    Raises:
        ForbiddenError: the last admin would be gone.
    """
    wanted = changes.model_dump(exclude_unset=True)
    role = wanted.pop("role", user.role)
    if role != user.role:
        people.change_role(session, user, role, by=by)
    for name, value in wanted.items():
        before = getattr(user, name)
        if value != before:
            setattr(user, name, value)
            people.record(session, by.id, CHANGED, now=now, user=user.name, what=name, old=before, new=value)
    session.flush()


def end_sessions(session: Session, user: User, *, by: User) -> None:
    """Sign somebody out everywhere and take back their API tokens."""
    people.end_sessions(session, user)
    for token in session.scalars(select(Token).where(Token.user_id == user.id, Token.revoked_at.is_(None))):
        token.revoked_at = time.time()
    people.record(session, by.id, "ended sessions", user=user.name)
    session.flush()


def set_weights(session: Session, weights: Mapping[str, float], *, by: User, source: str) -> None:
    """What people's judgements count in training, by user id; others keep their weight.

    Args:
        source: where the weights are from, for the audit trail.
    """
    used = {user_id: round(min(max(weight, 0.0), MAX_WEIGHT), 4) for user_id, weight in weights.items()}
    for user in session.scalars(select(User).where(User.id.in_(used)).order_by(User.id)):
        user.weight = used[user.id]
    people.record(session, by.id, "set weights", source=source, weights=used)
    session.flush()


def open_invitations(session: Session, *, now: float | None = None) -> Sequence[Invitation]:
    """Invitations that can still be used, the newest first."""
    now = time.time() if now is None else now
    usable = (Invitation.used_at.is_(None), Invitation.revoked_at.is_(None), Invitation.expires_at > now)
    return session.scalars(select(Invitation).where(*usable).order_by(Invitation.created_at.desc())).all()


def revoke(session: Session, invitation_id: str, *, by: User, now: float | None = None) -> None:
    """Take an invitation back.

    Raises:
        NotFoundError: there is none of that id.
        ConflictError: it was used already.
    """
    found = select(Invitation).where(Invitation.id == invitation_id).with_for_update()
    invitation = session.scalars(found).one_or_none()
    if invitation is None:
        raise NotFoundError("no such invitation")
    if invitation.used_at is not None:
        raise ConflictError("this invitation was used already: pause the person instead")
    if invitation.revoked_at is None:
        invitation.revoked_at = time.time() if now is None else now
        people.record(session, by.id, "revoked an invitation", now=now, role=invitation.role, note=invitation.note)
    session.flush()


def _work(session: Session, user_id: str | None) -> _Work:
    users = [person_of(session, user_id)] if user_id else session.scalars(select(User).order_by(User.name_key)).all()
    mine = Judgement.user_id.in_([user.id for user in users])
    met = meetings_of(session, users[0]) if user_id else meetings.meetings(meetings.opinions(session))
    counts = select(Task.user_id, func.count()).where(Task.state == "submitted").group_by(Task.user_id)
    times = judgements.current().where(mine, Judgement.task_id.is_not(None), Judgement.seconds.is_not(None))
    seconds: dict[str, list[float]] = {}
    for owner, value in session.execute(times.with_only_columns(Judgement.user_id, Judgement.seconds)):
        seconds.setdefault(owner, []).append(value or 0.0)
    return _Work(
        users=users,
        done=dict(session.execute(counts).all()),
        seconds=seconds,
        seen=_seen(session),
        met=meetings.by_person(met),
    )


def _seen(session: Session) -> dict[str, float]:
    """When each person was last here: in a session, with a token, or at work."""
    sources = (
        select(Login.user_id, func.max(Login.seen_at)).group_by(Login.user_id),
        select(Token.user_id, func.max(Token.seen_at)).group_by(Token.user_id),
        select(Judgement.user_id, func.max(Judgement.created_at)).group_by(Judgement.user_id),
        select(Event.user_id, func.max(Event.at)).where(Event.user_id.is_not(None)).group_by(Event.user_id),
    )
    seen: dict[str, float] = {}
    for user_id, at in (row for source in sources for row in session.execute(source)):
        seen[user_id] = max(seen.get(user_id, 0.0), at or 0.0)
    return seen


def _labeler(work: _Work, user: User) -> Labeler:
    met = work.met.get(user.id, [])
    times = work.seconds.get(user.id, [])
    return Labeler(
        user=user,
        num_done=work.done.get(user.id, 0),
        seconds=median(times) if times else None,
        agreement=meetings.estimate(met, resamples=RESAMPLES),
        num_others=len({name for meeting in met for name in (meeting.one, meeting.other)} - {user.id}),
        last_seen=work.seen.get(user.id),
    )
