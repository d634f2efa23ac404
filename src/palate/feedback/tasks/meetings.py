"""Where two people judged the same item: what agreement is made of.

Two labelers meet on an item when each of them ranked its responses without knowing what the other had said. A meeting
compares every pair of the K responses: the same verdict counts 1, a tie against a preference one half, opposite
preferences 0, as in ``agreement.py``. From meetings follow who agrees with whom, which items are disputed, and how
agreement moves over time.

Only the ranks are read from the log, not the texts, so that this stays quick where the log is long. Left out are
screening tests, judgements that came when the item was full, and those of reviewers, who knew the others' before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, exists
from sqlalchemy.orm import Session

from palate.feedback.store.tables import Batch, Item, Judgement, Task
from palate.feedback.tasks import judgements
from palate.intervals import Estimate, ratio_estimate

DAY = 86400.0

Thing = TypeVar("Thing")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One person's ranking of one item: ``ranks`` [K] by response, ``at`` the time."""

    number: int
    user_id: str
    item_id: str
    prompt_id: str
    batch_id: str
    at: float
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Two opinions on one item, held against each other.

    Attributes:
        one, other: user ids.
        number: of the later judgement, with which the two met.
        at: its time.
        agreeing: sum over pairs of responses of 1, one half or 0.
        num_pairs: K (K - 1) / 2.
    """

    item_id: str
    prompt_id: str
    one: str
    other: str
    number: int
    at: float
    agreeing: float
    num_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contested:
    """An item that several people judged; ``disagreement`` is 0 if all said the same, 1 if any two the opposite."""

    item_id: str
    prompt_id: str
    batch_id: str
    num_labelers: int
    disagreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """How far people agreed from ``start`` to ``end``."""

    start: float
    end: float
    num_meetings: int
    agreement: Estimate


def independent(*where: ColumnElement[bool]) -> Select[Judgement]:
    """The rankings that count for agreement, as a view of the log; ``where`` may speak of Item and Batch too."""
    surplus = exists().where(Task.id == Judgement.task_id, Task.is_surplus)
    joined = judgements.current().join(Item, Item.id == Judgement.item_id).join(Batch, Batch.id == Item.batch_id)
    own = (Judgement.kind == "ranking", Judgement.task_id.is_not(None), ~surplus, ~Batch.is_screening)
    return joined.where(*own, *where)


def opinions(session: Session, *where: ColumnElement[bool]) -> list[Opinion]:
    """Independent rankings in the order of the log."""
    columns = (Judgement.number, Judgement.user_id, Item.id, Item.prompt_id, Item.batch_id, Judgement.created_at)
    found = independent(*where).with_only_columns(*columns, Judgement.record["ranks"])
    return [
        Opinion(number=number, user_id=user, item_id=item, prompt_id=prompt, batch_id=batch, at=at, ranks=tuple(ranks))
        for number, user, item, prompt, batch, at, ranks in session.execute(found)
    ]


def meetings(said: Iterable[Opinion]) -> list[Meeting]:
    """Every two people on every item, in the order in which they met."""
    items = grouped(said, lambda opinion: opinion.item_id).values()
    met = (_meeting(one, other) for item in items for one, other in combinations(item, 2) if len(one.ranks) > 1)
    return sorted(met, key=lambda meeting: meeting.number)


def share(met: Sequence[Meeting]) -> float | None:
    """How often the verdicts are the same; None where nothing was compared."""
    pairs = sum(meeting.num_pairs for meeting in met)
    return sum(meeting.agreeing for meeting in met) / pairs if pairs else None


def disagreement(said: Sequence[Opinion]) -> float:
    """Of the opinions on one item: 0 where all say the same, 1 where every two say the opposite."""
    agreeing = share(meetings(said))
    return 0.0 if agreeing is None else 1 - agreeing


def contested(said: Iterable[Opinion]) -> list[Contested]:
    """Items that several people judged, the most disputed first."""
    found = [
        Contested(
            item_id=item_id,
            prompt_id=group[0].prompt_id,
            batch_id=group[0].batch_id,
            num_labelers=len(group),
            disagreement=disagreement(group),
        )
        for item_id, group in grouped(said, lambda opinion: opinion.item_id).items()
        if len(group) > 1
    ]
    return sorted(found, key=lambda item: (-item.disagreement, -item.num_labelers, item.item_id))


def estimate(met: Sequence[Meeting], *, seed: int = 0, resamples: int = 1000) -> Estimate:
    """The same with its interval by prompt."""
    prompts = grouped(met, lambda meeting: meeting.prompt_id).values()
    agreeing = [sum(meeting.agreeing for meeting in group) for group in prompts]
    pairs = [sum(meeting.num_pairs for meeting in group) for group in prompts]
    return ratio_estimate(agreeing, pairs, seed=seed, resamples=resamples, share=True)


def over_time(met: Sequence[Meeting], *, every: int = 0, resamples: int = 400) -> list[Period]:
    """Agreement day by day, or of every so many meetings; a meeting belongs to the time of its later judgement."""
    if every:
        parts = [met[start : start + every] for start in range(0, len(met), every)]
    else:
        parts = list(grouped(met, lambda meeting: int(meeting.at // DAY)).values())
    return [
        Period(start=part[0].at, end=part[-1].at, num_meetings=len(part), agreement=estimate(part, resamples=resamples))
        for part in parts
    ]


def by_person(met: Iterable[Meeting]) -> dict[str, list[Meeting]]:
    """Everyone's meetings with others."""
    found: dict[str, list[Meeting]] = {}
    for meeting in met:
        found.setdefault(meeting.one, []).append(meeting)
        found.setdefault(meeting.other, []).append(meeting)
    return found


def grouped(things: Iterable[Thing], key: Callable[[Thing], Key]) -> dict[Key, list[Thing]]:
    """Things by their key, both in the order in which they come."""
    groups: dict[Key, list[Thing]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


def compare(ranks: Sequence[int], others: Sequence[int]) -> float:
    """Sum over pairs of responses: 1 for the same verdict, one half for a lone tie, 0 for opposite preferences."""
    return sum(1 - abs(one - other) / 2 for one, other in zip(_verdicts(ranks), _verdicts(others), strict=True))


def _verdicts(ranks: Sequence[int]) -> list[int]:
    """Of each pair: -1 the first is better, 0 a tie, 1 the second."""
    return [(a > b) - (a < b) for a, b in combinations(ranks, 2)]


def _meeting(one: Opinion, other: Opinion) -> Meeting:
    later = max(one, other, key=lambda opinion: opinion.number)
    return Meeting(
        item_id=one.item_id,
        prompt_id=one.prompt_id,
        one=one.user_id,
        other=other.user_id,
        number=later.number,
        at=later.at,
        agreeing=compare(one.ranks, other.ranks),
        num_pairs=len(one.ranks) * (len(one.ranks) - 1) // 2,
    )
