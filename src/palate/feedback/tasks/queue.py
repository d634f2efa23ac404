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
from functools import cache
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Select, Text, and_, bindparam, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from palate.errors import ConflictError, ForbiddenError, NotFoundError, TooManyError
from palate.feedback.store.tables import Batch, Item, ItemAuthor, PlainText, Review, Task, User
from palate.randomness import permutation

DAY = 86400.0
UNLIMITED_PLACES = 1_000_000
"""Of a screening item: everyone answers it."""

_TRIES = 8
_RELEASE_LOCK = 0x70616C02  # any number
_WORKING = ("leased", "submitted", "skipped")


def claim(session: Session, user: User, *, batch_id: str | None = None, now: float | None = None) -> Task | None:
    """The task this person has in hand, or the next one for them; None when there is nothing to do.

    Raises:
        ForbiddenError: they are paused, or the screening went against them.
        TooManyError: their share for today is done.
    """
    now = time.time() if now is None else now
    person = _alone(session, user.id)
    _check_allowed(person)
    release_expired(session, now)
    in_hand = _in_hand(session, person, batch_id)
    if in_hand is not None:
        in_hand.leased_until = now + _batch_of(session, in_hand).lease_seconds
        return in_hand
    _check_share(session, person, now)
    wanted, who = next_items(in_batch=batch_id is not None), wishes(session, person, batch_id)
    while items := session.scalars(wanted, who).all():
        for item in items:  # others are after the same ones; whoever comes late looks again
            if take_place(session, item.id):
                return _task(session, person, item, now)
    return None


def release_expired(session: Session, now: float) -> int:
    """Give back the places of leases that have run out; returns how many.

    One transaction does it at a time, so that no two wait for each other's items; others go on without.
    """
    late = select(Task.id).where(Task.state == "leased", Task.leased_until < now)
    if not session.scalar(select(late.exists())) or not _is_only_releaser(session):
        return 0
    ids = session.scalars(late.with_for_update(skip_locked=True)).all()
    freed = session.scalars(
        update(Task)
        .where(Task.id.in_(ids))
        .values(state="released")
        .returning(Task.item_id)
        .execution_options(synchronize_session="fetch")
    ).all()
    for item_id in freed:
        give_place(session, item_id)
    return len(freed)


def hold(session: Session, task: Task) -> None:
    """Bring a task up to date, and keep its owner's other requests waiting until this transaction ends."""
    _alone(session, task.user_id)
    session.refresh(task, with_for_update=True)


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
    """Keep what the screen holds, and renew the lease (or take a place again, if one is left).

    Raises:
        ConflictError: it has been submitted or skipped already.
    """
    now = time.time() if now is None else now
    _hold_unfinished(session, task)
    task.draft, task.draft_at = draft, now
    if task.state == "released" and take_place(session, task.item_id):
        task.state = "leased"
    task.leased_until = now + _batch_of(session, task).lease_seconds


def finish(session: Session, task: Task, *, now: float | None = None) -> None:
    """Mark as submitted; after a lost place as surplus.

    Raises:
        ConflictError: it has been submitted or skipped already.
    """
    _hold_unfinished(session, task)
    if task.state == "released":
        task.is_surplus = not take_place(session, task.item_id)
    task.state, task.ended_at = "submitted", time.time() if now is None else now
    session.flush()


def skip(session: Session, task: Task, reason: str, *, now: float | None = None) -> None:
    """Leave the item to others, for a reason that is kept.

    Raises:
        ConflictError: it has been submitted or skipped already, or it belongs to a screening test.
    """
    _hold_unfinished(session, task)
    if _batch_of(session, task).is_screening:
        raise ConflictError("every item of the screening test counts: answer it as well as you can")
    if task.state == "leased":
        give_place(session, task.item_id)
    task.state, task.skip_reason, task.ended_at = "skipped", reason, time.time() if now is None else now
    session.flush()


def reopen(session: Session, task: Task, *, now: float | None = None) -> None:
    """Take up a skipped or released task again.

    Raises:
        ConflictError: others have taken all places meanwhile, or it was submitted (see `judgements.withdraw`).
    """
    hold(session, task)
    if task.state == "submitted":
        raise ConflictError("this task is already submitted: take back what you handed in, or correct it")
    if task.state != "leased" and not take_place(session, task.item_id):
        raise ConflictError("others have finished this item meanwhile")
    _lease(session, task, now)


def unfinish(session: Session, task: Task, *, now: float | None = None) -> None:
    """A submitted task is in hand again: with the place it has kept, or without one if it was surplus."""
    assert task.state == "submitted", "only what was handed in is taken back"
    if task.is_surplus:
        task.is_surplus, task.state, task.ended_at = False, "released", None
    else:
        _lease(session, task, now)
    session.flush()


def shown_order(item: Item, user_id: str) -> list[int]:
    """[K] the response shown in each place: shuffled for each person, the same whenever they look."""
    return [int(index) for index in permutation(len(item.response_ids), "shown", item.id, user_id)]


def batches_for(session: Session, user: User) -> Sequence[Batch]:
    """Open batches, screening first."""
    return session.scalars(
        select(Batch)
        .where(Batch.state == "open", Batch.is_screening == must_be_screened(session, user))
        .order_by(Batch.is_screening.desc())
    ).all()


def must_be_screened(session: Session, user: User) -> bool:
    """Whether this labeler has a test to take before other work."""
    if user.role != "labeler" or user.screening is not None:
        return False
    return bool(session.scalar(select(exists().where(Batch.is_screening, Batch.state == "open"))))


def is_latest_review() -> ColumnElement[bool]:
    """Of an item's reviews the one that holds."""
    later = aliased(Review)
    after = or_(later.created_at > Review.created_at, and_(later.created_at == Review.created_at, later.id > Review.id))
    return ~exists().where(later.item_id == Review.item_id, after)


@cache
def next_items(*, in_batch: bool) -> Select[Any]:
    """A few items with an open place for somebody (see `wishes`), the most wanted first; built once, asked often."""
    user_id, screening = bindparam("user_id", type_=Text), bindparam("screening", type_=Boolean)
    mine, counted, counted_item = aliased(Task), aliased(Task), aliased(Item)
    seen = exists().where(mine.item_id == Item.id, mine.user_id == user_id, mine.state.in_(_WORKING))
    wrote = exists().where(ItemAuthor.item_id == Item.id, ItemAuthor.user_id == user_id)
    decided = exists().where(Review.item_id == Item.id, Review.decision != "keep", is_latest_review())
    share = (
        select(func.count())
        .select_from(counted)
        .join(counted_item, counted_item.id == counted.item_id)
        .where(
            counted_item.batch_id == Batch.id, counted.user_id == user_id, counted.state.in_(("leased", "submitted"))
        )
        .correlate(Batch)
        .scalar_subquery()
    )
    wanted = and_(Batch.state == "open", Item.open_places > 0, ~seen, ~wrote, ~decided, Batch.is_screening == screening)
    query = (
        select(Item)
        .join(Batch, Batch.id == Item.batch_id)
        .where(wanted, or_(Batch.per_labeler.is_(None), share < Batch.per_labeler))
        .order_by(Item.priority.desc(), Batch.created_at, Item.position)
        .limit(_TRIES)
    )
    return query.where(Item.batch_id == bindparam("batch_id", type_=PlainText)) if in_batch else query


def wishes(session: Session, user: User, batch_id: str | None) -> dict[str, Any]:
    """The parameters of `next_items` for a person; screening is first and alone for those who need it."""
    return {"user_id": user.id, "screening": must_be_screened(session, user), "batch_id": batch_id}


def _alone(session: Session, user_id: str) -> User:
    """A person as they are now, whose other requests wait for this transaction: two tabs claim one after the other."""
    found = select(User).where(User.id == user_id).with_for_update(key_share=True)
    return session.scalars(found.execution_options(populate_existing=True)).one()


def _is_only_releaser(session: Session) -> bool:
    if session.get_bind().dialect.name != "postgresql":
        return True
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(_RELEASE_LOCK))))


def _hold_unfinished(session: Session, task: Task) -> None:
    hold(session, task)
    if task.state not in ("leased", "released"):
        raise ConflictError(f"this task is already {task.state}")


def _lease(session: Session, task: Task, now: float | None) -> None:
    task.state, task.skip_reason, task.ended_at = "leased", None, None
    task.leased_until = (time.time() if now is None else now) + _batch_of(session, task).lease_seconds
    session.flush()


def _in_hand(session: Session, user: User, batch_id: str | None) -> Task | None:
    mine = (
        select(Task)
        .join(Item, Item.id == Task.item_id)
        .join(Batch, Batch.id == Item.batch_id)
        .where(Task.user_id == user.id, Task.state == "leased", Batch.state == "open")
        .order_by(Task.created_at)
        .with_for_update(of=Task)
        .execution_options(populate_existing=True)
    )
    return session.scalars(mine if batch_id is None else mine.where(Batch.id == batch_id)).first()


def _batch_of(session: Session, task: Task) -> Batch:
    item = session.get_one(Item, task.item_id)
    return session.get_one(Batch, item.batch_id)


def _check_allowed(user: User) -> None:
    if user.is_paused:
        raise ForbiddenError("your account is paused; ask whoever invited you")
    if user.screening == "failed":
        raise ForbiddenError("the screening test was not passed; ask whoever invited you")


def _check_share(session: Session, user: User, now: float) -> None:
    if user.tasks_per_day is None:
        return
    today = select(Task.ended_at).where(Task.user_id == user.id, Task.state == "submitted", Task.ended_at > now - DAY)
    done = session.scalars(today.order_by(Task.ended_at.desc()).limit(user.tasks_per_day)).all()
    if len(done) >= user.tasks_per_day:
        wait = (done[-1] or now) + DAY - now if done else DAY
        raise TooManyError(f"your {user.tasks_per_day} tasks for today are done", retry_after=wait)


def _task(session: Session, user: User, item: Item, now: float) -> Task:
    """A new task, or this person's earlier one whose lease had run out."""
    batch = session.get_one(Batch, item.batch_id)
    earlier = select(Task).where(Task.item_id == item.id, Task.user_id == user.id)
    task = session.scalars(earlier.execution_options(populate_existing=True)).first()
    if task is None:
        order = shown_order(item, user.id)
        task = Task(item_id=item.id, user_id=user.id, shown_order=order, created_at=now, leased_until=now)
        session.add(task)
    task.state, task.leased_until = "leased", now + batch.lease_seconds
    session.flush()
    return task
