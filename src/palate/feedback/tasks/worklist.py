"""One person's work: what is left for them, what they have done, and changing it afterwards.

What is left is counted with the query that hands it out, so a number never promises more than `queue.claim` gives.
Changing is open as long as the batch is: a closed one has been counted, and a test that is over cannot be taken again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError
from palate.feedback.store.tables import Batch, Item, Judgement, PromptRow, Task, User
from palate.feedback.tasks import judgements, queue
from palate.feedback.tasks.judgements import DemonstrationForm, Handed, Rank, RankingForm, Rating
from palate.records import Demonstration, Prompt, Ranking

Standing = Literal["open", "paused", "failed", "limit"]
"""Whether somebody may be given work, and if not why."""

PACE_OVER = 20
"""The time that a task takes is the median of this many."""


class Draft(BaseModel):
    """A form as far as it has been filled in, by place on the screen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: Annotated[tuple[Rank | None, ...], Field(max_length=50)] = ()
    ratings: Annotated[tuple[Rating | None, ...], Field(max_length=50)] | None = None
    flags: Annotated[tuple[tuple[str, ...], ...], Field(max_length=50)] | None = None
    strength: Annotated[int, Field(ge=0, le=3)] | None = None
    text: Annotated[str, Field(max_length=20000)] = ""
    comment: Annotated[str, Field(max_length=2000)] = ""
    seconds: Annotated[float, Field(ge=0, le=86400)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pile:
    """A batch as one person sees it.

    Attributes:
        done: submitted by them.
        in_hand: claimed and not finished.
        left: could still be claimed.
        pace: seconds that one takes them; None before the first.
    """

    batch: Batch
    done: int
    in_hand: int
    left: int
    pace: float | None

    @property
    def to_do(self) -> int:
        """What is still to be done."""
        return self.in_hand + self.left

    @property
    def total(self) -> int:
        """Done and to do."""
        return self.done + self.to_do

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take, if it goes on like this."""
        return None if self.pace is None else self.pace * self.to_do


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one person has submitted in the last 24 hours, and the seconds they were at it."""

    done: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A task that was submitted or skipped."""

    task: Task
    batch: Batch
    prompt: Prompt
    can_change: bool


def pile(session: Session, user: User, batch: Batch) -> Pile:
    """How far somebody is with a batch."""
    mine = select(func.count()).select_from(Task).join(Item, Item.id == Task.item_id)
    mine = mine.where(Item.batch_id == batch.id, Task.user_id == user.id)
    done = session.scalar(mine.where(Task.state == "submitted")) or 0
    in_hand = session.scalar(mine.where(Task.state == "leased")) or 0
    left = session.scalar(_left(), queue.wishes(session, user, batch.id)) or 0
    if batch.per_labeler is not None:
        left = max(min(left, batch.per_labeler - done - in_hand), 0)
    return Pile(batch=batch, done=done, in_hand=in_hand, left=left, pace=_pace(session, user, batch))


@cache
def _left() -> Select[Any]:
    """How many items of a batch have an open place for somebody."""
    wanted = queue.next_items(in_batch=True).order_by(None).limit(None).with_only_columns(Item.id)
    return select(func.count()).select_from(wanted.subquery())


def piles(session: Session, user: User) -> list[Pile]:
    """The batches with something to do for somebody, a test before everything else."""
    found = (pile(session, user, batch) for batch in queue.batches_for(session, user))
    return [each for each in found if each.to_do]


def tally(session: Session, user: User, *, now: float | None = None) -> Tally:
    """The last 24 hours of somebody's work."""
    since = (time.time() if now is None else now) - queue.DAY
    lines = judgements.current().join(Task, Task.id == Judgement.task_id)
    lines = lines.where(Judgement.user_id == user.id, Task.state == "submitted", Task.ended_at > since)
    seconds = [line.seconds or 0.0 for line in session.scalars(lines)]
    return Tally(done=len(seconds), seconds=sum(seconds))


def standing(session: Session, user: User, *, now: float | None = None) -> Standing:
    """Whether somebody is given work."""
    if user.is_paused:
        return "paused"
    if user.screening == "failed":
        return "failed"
    if user.tasks_per_day is not None and tally(session, user, now=now).done >= user.tasks_per_day:
        return "limit"
    return "open"


def finished(session: Session, user: User, *, limit: int = 20) -> list[Finished]:
    """What somebody submitted or skipped, the latest first."""
    rows = session.execute(
        select(Task, Batch, PromptRow)
        .join(Item, Item.id == Task.item_id)
        .join(Batch, Batch.id == Item.batch_id)
        .join(PromptRow, PromptRow.id == Item.prompt_id)
        .where(Task.user_id == user.id, Task.state.in_(("submitted", "skipped")))
        .order_by(Task.ended_at.desc(), Task.id)
        .limit(limit)
    )
    return [
        Finished(
            task=task, batch=batch, prompt=Prompt.model_validate(row.record), can_change=_why_not(user, batch) is None
        )
        for task, batch, row in rows
    ]


def said(session: Session, task: Task) -> Draft | None:
    """What a submitted task's form held."""
    line = judgements.current_of_task(session, task)
    if line is None:
        return None
    if line.kind == "demonstration":
        text = Demonstration.model_validate(line.record).response.text
        return Draft(text=text, comment=line.comment, seconds=line.seconds or 0.0)
    ranking = Ranking.model_validate(line.record)
    order = task.shown_order
    return Draft(
        ranks=judgements.by_place(order, ranking.ranks),
        ratings=judgements.by_place(order, ranking.ratings) if ranking.ratings else None,
        flags=judgements.by_place(order, ranking.flags) if ranking.flags else None,
        strength=None if ranking.strength is None else int(ranking.strength),
        comment=line.comment,
        seconds=line.seconds or 0.0,
    )


def undo(session: Session, user: User, task: Task, *, now: float | None = None) -> None:
    """Take back what was handed in; the task is in hand again, with the form as it was.

    Raises:
        ConflictError: there is nothing to take back, or it can no longer be changed.
    """
    line = _changeable(session, user, task)
    before = said(session, task)
    judgements.withdraw(session, user, line, now=now)
    assert before is not None, "a line that can be changed says something"
    task.draft, task.draft_at = before.model_dump(mode="json"), time.time() if now is None else now


def reopen(session: Session, user: User, task: Task, *, now: float | None = None) -> None:
    """Take up a skipped task again.

    Raises:
        ConflictError: others have done it meanwhile, or the batch is closed.
    """
    _check_open(session, user, task)
    queue.reopen(session, task, now=now)


def correct(
    session: Session, user: User, task: Task, form: RankingForm | DemonstrationForm, *, now: float | None = None
) -> Handed:
    """Replace what was handed in.

    Raises:
        ConflictError: nothing was handed in, it can no longer be changed, or the form is one of another kind.
    """
    line = _changeable(session, user, task)
    if isinstance(form, RankingForm):
        return judgements.correct_ranking(session, user, line, form, now=now)
    if line.kind != "demonstration" or not form.text.strip():
        raise ConflictError("write an answer first" if line.kind == "demonstration" else "this task wants a ranking")
    queue.hold(session, task)
    record = {**line.record, "response": {"text": form.text}}
    written = judgements.append(
        session,
        "demonstration",
        record,
        user,
        like=line,
        supersedes=line,
        seconds=form.seconds,
        comment=form.comment,
        quality={"edited": True},
        now=now,
    )
    return Handed(judgement=written)


def batch_of(session: Session, task: Task) -> Batch:
    """The batch that a task belongs to."""
    return session.get_one(Batch, session.get_one(Item, task.item_id).batch_id)


def _pace(session: Session, user: User, batch: Batch) -> float | None:
    lines = (
        select(Judgement.seconds)
        .join(Item, Item.id == Judgement.item_id)
        .where(Item.batch_id == batch.id, Judgement.user_id == user.id, Judgement.seconds > 0)
        .order_by(Judgement.number.desc())
        .limit(PACE_OVER)
    )
    seconds: Sequence[float | None] = session.scalars(lines).all()
    return median(value for value in seconds if value is not None) if seconds else None


def _why_not(user: User, batch: Batch) -> str | None:
    """Why nothing in this batch can be changed any more."""
    if batch.is_screening and user.screening is not None:
        return "the test is over: its answers stay as they are"
    return "this batch is closed: nothing in it can be changed any more" if batch.state == "closed" else None


def _check_open(session: Session, user: User, task: Task) -> None:
    reason = _why_not(user, batch_of(session, task))
    if reason is not None:
        raise ConflictError(reason)


def _changeable(session: Session, user: User, task: Task) -> Judgement:
    _check_open(session, user, task)
    line = judgements.current_of_task(session, task)
    if line is None:
        raise ConflictError("nothing was handed in here yet")
    return line
