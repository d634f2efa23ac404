"""The queue: who works on what.

An item has as many places as its batch's overlap. `claim` takes one place for one person, with a lease; every saved
draft renews it; a lease that has run out gives the place back, while the draft stays. Taking a place is one update that
succeeds only while a place is open, so the overlap is never overshot, however many people ask at once:

    UPDATE items SET open_places = open_places - 1 WHERE id = :item AND open_places > 0

A form that is handed in after its lease ran out takes a place again if one is left. If none is, the judgement is kept
all the same and marked as surplus: nobody's work is thrown away, and nothing is counted twice.

    leased --submit--> submitted        leased --skip--> skipped        leased --time--> released
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from palate.errors import ConflictError, ForbiddenError, NotFoundError, TooManyError
from palate.feedback.tables import Batch, Item, ItemAuthor, Task, User
from palate.randomness import permutation

DAY = 86400.0
UNLIMITED_PLACES = 1_000_000
"""Of a screening item: everyone answers it."""

_TRIES = 8
_COUNTED = ("leased", "submitted")
_WORKING = ("leased", "submitted", "skipped")


def claim(session: Session, user: User, *, batch_id: str | None = None, now: float | None = None) -> Task | None:
    """The task this person has in hand, or the next one for them; None when there is nothing to do.

    Raises:
        ForbiddenError: they are paused, or the screening went against them.
        TooManyError: their share for today is done.
    """
    now = time.time() if now is None else now
    release_expired(session, now)
    in_hand = _in_hand(session, user, batch_id)
    if in_hand is not None:
        in_hand.leased_until = now + _batch_of(session, in_hand).lease_seconds
        return in_hand
    _check_allowed(session, user, now)
    wanted = _next_items(session, user, batch_id)
    while items := session.scalars(wanted).all():
        for item in items:  # others are after the same ones; whoever comes late looks again
            if take_place(session, item.id):
                return _task(session, user, item, now)
    return None


def release_expired(session: Session, now: float) -> int:
    """Give back the places of leases that have run out; returns how many."""
    late = select(Task.id).where(Task.state == "leased", Task.leased_until < now)
    released = 0
    for task_id in session.scalars(late).all():
        freed = session.execute(
            update(Task)
            .where(Task.id == task_id, Task.state == "leased", Task.leased_until < now)
            .values(state="released")
            .returning(Task.item_id)
            .execution_options(synchronize_session="fetch")
        ).scalar()
        if freed is not None:
            give_place(session, freed)
            released += 1
    return released


def take_place(session: Session, item_id: str) -> bool:
    """Take one open place of an item, if there is one."""
    taken = session.execute(
        update(Item)
        .where(Item.id == item_id, Item.open_places > 0)
        .values(open_places=Item.open_places - 1)
        .returning(Item.id)
        .execution_options(synchronize_session="fetch")
    )
    return taken.scalar() is not None


def give_place(session: Session, item_id: str) -> None:
    """Open a place of an item again."""
    session.execute(
        update(Item)
        .where(Item.id == item_id)
        .values(open_places=Item.open_places + 1)
        .execution_options(synchronize_session="fetch")
    )


def task_of(session: Session, user: User, task_id: str) -> Task:
    """This person's task.

    Raises:
        NotFoundError: there is none of that id, or it is somebody else's.
    """
    task = session.get(Task, task_id)
    if task is None or task.user_id != user.id:
        raise NotFoundError("no such task")
    return task


def save_draft(session: Session, task: Task, draft: dict[str, Any], *, now: float | None = None) -> None:
    """Keep what the screen holds, and renew the lease (or take a place again, if one is left)."""
    now = time.time() if now is None else now
    if task.state not in ("leased", "released"):
        raise ConflictError(f"this task is already {task.state}")
    task.draft, task.draft_at = draft, now
    if task.state == "released" and take_place(session, task.item_id):
        task.state = "leased"
    task.leased_until = now + _batch_of(session, task).lease_seconds


def finish(session: Session, task: Task, *, now: float | None = None) -> None:
    """Mark as submitted; after a lost place as surplus.

    Raises:
        ConflictError: it has been submitted or skipped already.
    """
    _move(session, task, ("leased", "released"), "submitted", now)


def skip(session: Session, task: Task, reason: str, *, now: float | None = None) -> None:
    """Leave the item to others, for a reason that is kept.

    Raises:
        ConflictError: it has been submitted or skipped already.
    """
    held = task.state == "leased"
    _move(session, task, ("leased", "released"), "skipped", now)
    task.skip_reason = reason
    if held:
        give_place(session, task.item_id)


def reopen(session: Session, task: Task, *, now: float | None = None) -> None:
    """Take up a skipped, released or submitted task again (a submitted one keeps its place).

    Raises:
        ConflictError: others have taken all places meanwhile.
    """
    now = time.time() if now is None else now
    if task.state in ("skipped", "released") and not take_place(session, task.item_id):
        raise ConflictError("others have finished this item meanwhile")
    task.state, task.skip_reason = "leased", None
    task.ended_at = None
    task.leased_until = now + _batch_of(session, task).lease_seconds


def shown_order(item: Item, user_id: str) -> list[int]:
    """[K] the response shown in each place: shuffled for each person, the same whenever they look."""
    return [int(index) for index in permutation(len(item.response_ids), "shown", item.id, user_id)]


def batches_for(session: Session, user: User) -> Sequence[Batch]:
    """Open batches, screening first."""
    return session.scalars(
        select(Batch).where(Batch.state == "open", _suits(session, user)).order_by(Batch.is_screening.desc())
    ).all()


def must_be_screened(session: Session, user: User) -> bool:
    """Whether this labeler has a test to take before other work."""
    if user.role != "labeler" or user.screening is not None:
        return False
    return bool(session.scalar(select(exists().where(Batch.is_screening, Batch.state == "open"))))


def _move(session: Session, task: Task, sources: tuple[str, ...], target: str, now: float | None) -> None:
    """From one state to another, once, also when two requests come together."""
    was = task.state
    moved = session.execute(
        update(Task)
        .where(Task.id == task.id, Task.state.in_(sources))
        .values(state=target, ended_at=time.time() if now is None else now)
        .returning(Task.id)
        .execution_options(synchronize_session="fetch")
    ).scalar()
    if moved is None:
        session.refresh(task)
        raise ConflictError(f"this task is already {task.state}")
    if target == "submitted" and was == "released":
        task.is_surplus = not take_place(session, task.item_id)


def _in_hand(session: Session, user: User, batch_id: str | None) -> Task | None:
    mine = select(Task).where(Task.user_id == user.id, Task.state == "leased").order_by(Task.created_at)
    if batch_id is not None:
        mine = mine.join(Item, Item.id == Task.item_id).where(Item.batch_id == batch_id)
    return session.scalars(mine).first()


def _batch_of(session: Session, task: Task) -> Batch:
    item = session.get_one(Item, task.item_id)
    return session.get_one(Batch, item.batch_id)


def _check_allowed(session: Session, user: User, now: float) -> None:
    if user.is_paused:
        raise ForbiddenError("your account is paused; ask whoever invited you")
    if user.screening == "failed":
        raise ForbiddenError("the screening test was not passed; ask whoever invited you")
    if user.tasks_per_day is not None:
        done = session.scalar(
            select(func.count()).where(Task.user_id == user.id, Task.state == "submitted", Task.ended_at > now - DAY)
        )
        if (done or 0) >= user.tasks_per_day:
            raise TooManyError(f"your {user.tasks_per_day} tasks for today are done", retry_after=3600.0)


def _suits(session: Session, user: User) -> ColumnElement[bool]:
    """Screening first and alone for those who need it; never again for those who had it."""
    if must_be_screened(session, user):
        return Batch.is_screening.is_(True)
    return Batch.is_screening.is_(False)


def _next_items(session: Session, user: User, batch_id: str | None) -> Any:
    """A few items with an open place for this person, the most wanted first."""
    mine, counted, counted_item = aliased(Task), aliased(Task), aliased(Item)
    seen = exists().where(mine.item_id == Item.id, mine.user_id == user.id, mine.state.in_(_WORKING))
    wrote = exists().where(ItemAuthor.item_id == Item.id, ItemAuthor.user_id == user.id)
    share = (
        select(func.count())
        .select_from(counted)
        .join(counted_item, counted_item.id == counted.item_id)
        .where(
            counted_item.batch_id == Batch.id, counted.user_id == user.id, counted.state.in_(("leased", "submitted"))
        )
        .correlate(Batch)
        .scalar_subquery()
    )
    wanted = and_(Batch.state == "open", Item.open_places > 0, ~seen, ~wrote, _suits(session, user))
    query = (
        select(Item)
        .join(Batch, Batch.id == Item.batch_id)
        .where(wanted, or_(Batch.per_labeler.is_(None), share < Batch.per_labeler))
        .order_by(Item.priority.desc(), Batch.created_at, Item.position)
        .limit(_TRIES)
    )
    return query if batch_id is None else query.where(Item.batch_id == batch_id)


def _task(session: Session, user: User, item: Item, now: float) -> Task:
    """A new task, or this person's earlier one whose lease had run out."""
    batch = session.get_one(Batch, item.batch_id)
    task = session.scalars(select(Task).where(Task.item_id == item.id, Task.user_id == user.id)).first()
    if task is None:
        order = shown_order(item, user.id)
        task = Task(item_id=item.id, user_id=user.id, shown_order=order, created_at=now, leased_until=now)
        session.add(task)
    task.state, task.leased_until = "leased", now + batch.lease_seconds
    session.flush()
    return task
