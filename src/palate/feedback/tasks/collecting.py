"""How collecting goes: judgements over time, and how many each item of a batch has."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate.feedback.store.tables import Batch, Item, Judgement, Task

HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Judgements that hold or held, in stretches of time without a gap.

    Attributes:
        seconds: of one stretch: an hour while everything lies within two days, a day after that.
        counts: by the number of the stretch since 1970.
    """

    seconds: float
    counts: Mapping[int, int]
    total: int
    last_day: int
    people: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """A batch: ``items[n]`` of its items have ``n`` judgements that count."""

    batch: Batch
    items: Mapping[int, int]

    @property
    def num_items(self) -> int:
        """All of them."""
        return sum(self.items.values())

    @property
    def num_complete(self) -> int:
        """Those with as many judgements as the batch asks for."""
        return sum(count for done, count in self.items.items() if done >= self.batch.overlap)


def throughput(session: Session, *, now: float | None = None) -> Throughput:
    """What people said, without what they took back; a correction is said again."""
    now = time.time() if now is None else now
    lines = select(Judgement.created_at, Judgement.user_id).where(Judgement.kind != "withdrawal")
    said = session.execute(lines).all()
    times = [at for at, _ in said]
    seconds = HOUR if times and max(times) - min(times) < 2 * DAY else DAY
    found = Counter(int(at // seconds) for at in times)
    return Throughput(
        seconds=seconds,
        counts={number: found[number] for number in range(min(found), max(found) + 1)} if found else {},
        total=len(times),
        last_day=sum(at > now - DAY for at in times),
        people=len({user_id for _, user_id in said}),
    )


def coverage(session: Session) -> list[Coverage]:
    """Every batch that is not a test, the newest first."""
    counted = (
        select(Task.item_id, func.count().label("done"))
        .where(Task.state == "submitted", ~Task.is_surplus)
        .group_by(Task.item_id)
        .subquery()
    )
    done = func.coalesce(counted.c.done, 0)
    rows = session.execute(
        select(Item.batch_id, done, func.count())
        .outerjoin(counted, counted.c.item_id == Item.id)
        .group_by(Item.batch_id, done)
    )
    items: dict[str, dict[int, int]] = {}
    for batch_id, number, count in rows:
        items.setdefault(batch_id, {})[number] = count
    batches = session.scalars(select(Batch).where(~Batch.is_screening).order_by(Batch.created_at.desc(), Batch.id))
    return [Coverage(batch=batch, items=items[batch.id]) for batch in batches if batch.id in items]
