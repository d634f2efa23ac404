"""Rounds: one turn of the loop each, from a policy through judgements to the next policy.

The first round begins by itself with the workspace's model. The next one is begun by hand, from any model that a round
has made; what is sampled, judged and trained from then on belongs to it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError
from palate.feedback.store import policies
from palate.feedback.store.tables import Batch, Item, Job, Model, Round, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch and how far it is.

    Attributes:
        done: judgements handed in that count towards the overlap.
        wanted: items times overlap; 0 where everyone answers everything, as in a screening test.
        covered: items with at least one judgement.
    """

    batch: Batch
    items: int
    done: int
    wanted: int
    covered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """Everything that belongs to one round, the earliest first."""

    round: Round
    policy: Model | None
    batches: Sequence[BatchView]
    jobs: Sequence[Job]
    models: Sequence[Model]


def current(session: Session) -> Round | None:
    """The round that is under way; None before the first."""
    return session.scalars(select(Round).order_by(Round.number.desc()).limit(1)).first()


def current_or_first(session: Session, model: str, *, now: float | None = None) -> Round:
    """The round that is under way; the first one begins with the model named ``model``."""
    found = current(session)
    return found or begin(session, policies.base_policy(session, model, now=now), now=now)


def begin(session: Session, policy: Model, *, name: str = "", now: float | None = None) -> Round:
    """The next round, from this model; the one before is closed.

    Raises:
        ConflictError: the model judges and does not answer.
    """
    if policy.kind != "policy":
        raise ConflictError("a round starts from a model that answers, not from a reward model")
    now = time.time() if now is None else now
    before = current(session)
    if before is not None:
        before.closed_at = now
    fresh = Round(number=(before.number if before else 0) + 1, name=name, policy_id=policy.id, created_at=now)
    session.add(fresh)
    session.flush()
    return fresh


def change_policy(session: Session, number: int, policy: Model) -> None:
    """Start this round from another model; possible until something was made in it.

    Raises:
        ConflictError: something was.
    """
    if policy.kind != "policy":
        raise ConflictError("a round starts from a model that answers, not from a reward model")
    made = session.scalar(select(func.count()).select_from(Job).where(Job.round_number == number))
    if made or session.scalar(select(func.count()).select_from(Batch).where(Batch.round_number == number)):
        raise ConflictError("this round is under way: start the next one from that model")
    session.get_one(Round, number).policy_id = policy.id


def lineage(session: Session) -> list[RoundView]:
    """All rounds, the newest first."""
    return [_view(session, each) for each in session.scalars(select(Round).order_by(Round.number.desc()))]


def batch_view(session: Session, batch: Batch) -> BatchView:
    """A batch and how far it is."""
    items = session.scalar(select(func.count()).where(Item.batch_id == batch.id)) or 0
    counted = select(func.count(), func.count(Task.item_id.distinct())).join(Item, Item.id == Task.item_id)
    counted = counted.where(Item.batch_id == batch.id, Task.state == "submitted", ~Task.is_surplus)
    done, covered = session.execute(counted).one()
    wanted = 0 if batch.is_screening else items * batch.overlap
    return BatchView(batch=batch, items=items, done=done, wanted=wanted, covered=covered)


def _view(session: Session, each: Round) -> RoundView:
    batches = session.scalars(select(Batch).where(Batch.round_number == each.number).order_by(Batch.created_at))
    return RoundView(
        round=each,
        policy=session.get(Model, each.policy_id) if each.policy_id else None,
        batches=[batch_view(session, batch) for batch in batches],
        jobs=session.scalars(select(Job).where(Job.round_number == each.number).order_by(Job.created_at)).all(),
        models=session.scalars(select(Model).where(Model.round_number == each.number).order_by(Model.created_at)).all(),
    )
