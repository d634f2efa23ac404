"""What judgements are worth: agreement of a part of the log, and the weights that follow from it.

    collect    reads a part of the log, in one transaction
    measure    agreement, position bias, disputed items, agreement over time
    weigh      majority against a Bradley-Terry model with a skill for each labeler and position bias

The last two work on what was read and take seconds where the log is long, so no transaction is open meanwhile. `Memory`
keeps their results until the log grows.

Nothing is left out silently: `Collected.left_out` counts every line of the log that was not used, by reason.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Generic, TypeVar

import numpy as np
from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session, aliased

from palate.feedback.statistics.aggregate import Majority, majority
from palate.feedback.statistics.bradley_terry import BradleyTerry, bradley_terry
from palate.feedback.statistics.pairwise_agreement import Agreement, agreement
from palate.feedback.store.tables import Batch, Item, Judgement, Task, User
from palate.feedback.tasks import meetings
from palate.feedback.tasks.meetings import Contested, Opinion, Period
from palate.intervals import Estimate, ratio_estimate
from palate.records import Ranking

RESAMPLES = 500
"""Of the bootstrap; a page that is waited for does not need more."""

LEFT_OUT = {
    "demonstration": "demonstrations, which compare nothing",
    "chat": "from the chat, where nobody else was asked the same",
    "screening": "answers to a screening test",
    "changed": "corrected or taken back later",
    "surplus": "handed in after enough others had answered",
    "review": "reviewers' own rankings, made knowing what the labelers had said",
}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Which part of the log; everything where nothing is said.

    Attributes:
        kind: of the batch: "ranking", "pair" or "arena".
        every: this many meetings make one point over time; 0 is a point for each day.
    """

    batch_id: str | None = None
    round_number: int | None = None
    kind: str | None = None
    every: int = 0

    @property
    def where(self) -> list[ColumnElement[bool]]:
        """As conditions on batches."""
        wanted = ((Batch.id, self.batch_id), (Batch.round_number, self.round_number), (Batch.kind, self.kind))
        return [column == value for column, value in wanted if value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was read.

    Attributes:
        last_number: of the whole log when it was read.
        rankings, opinions: the same judgements in the same order.
        names: of people, by id.
        left_out: how many judgements were not used, by the keys of `LEFT_OUT`.
    """

    view: View
    last_number: int
    rankings: tuple[Ranking, ...]
    opinions: tuple[Opinion, ...]
    names: Mapping[str, str]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """How far labelers agree.

    Attributes:
        num_alone: judgements of items that only one person has judged so far.
        first_wins: of two responses, how often the one shown first is preferred; a tie is one half.
        items: the most disputed first.
    """

    last_number: int
    num_judgements: int
    num_alone: int
    num_people: int
    left_out: Mapping[str, int]
    agreement: Agreement
    first_wins: Estimate
    over_time: tuple[Period, ...]
    items: tuple[Contested, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One verdict out of many, in two ways.

    Attributes:
        first_wins: by the model: how often the one shown first of two equally good responses is preferred.
        num_pairs: pairs of responses that somebody compared.
        num_same: of them, those where the model says the same as the majority.
        num_reversed: those where it says the opposite.
        num_undecided: those with as many votes on either side.
        user_ids: by name.
    """

    last_number: int
    majority: Majority
    model: BradleyTerry
    first_wins: Estimate
    num_pairs: int
    num_same: int
    num_reversed: int
    num_undecided: int
    user_ids: Mapping[str, str]


def last_number(session: Session) -> int:
    """How far the log has got."""
    return session.scalar(select(func.max(Judgement.number))) or 0


def collect(session: Session, view: View) -> Collected:
    """Read a part of the log."""
    lines = meetings.independent(*view.where).join(User, User.id == Judgement.user_id)
    read = session.execute(lines.with_only_columns(Judgement.record, User.name)).all()
    # the name of today, since that is what training knows people by
    rankings = tuple(Ranking.model_validate({**record, "labeler": name}) for record, name in read)
    return Collected(
        view=view,
        last_number=last_number(session),
        rankings=rankings,
        opinions=tuple(meetings.opinions(session, *view.where)),
        names=dict(session.execute(select(User.id, User.name)).all()),
        left_out=_left_out(session, view),
    )


def measure(collected: Collected) -> Numbers:
    """All numbers about agreement."""
    said = collected.opinions
    items = meetings.grouped(said, lambda opinion: opinion.item_id)
    return Numbers(
        last_number=collected.last_number,
        num_judgements=len(said),
        num_alone=sum(len(group) == 1 for group in items.values()),
        num_people=len({opinion.user_id for opinion in said}),
        left_out=collected.left_out,
        agreement=agreement(collected.rankings, resamples=RESAMPLES),
        first_wins=first_wins(collected.rankings),
        over_time=tuple(meetings.over_time(meetings.meetings(said), every=collected.view.every)),
        items=tuple(meetings.contested(said)),
    )


def weigh(collected: Collected) -> Weights:
    """Majority and model.

    Raises:
        DataError: nobody compared anything.
    """
    model, voted = bradley_terry(collected.rankings), majority(collected.rankings)
    signs = [(pair.verdict, _model_verdict(model, pair.prompt_id, pair.first, pair.second)) for pair in voted.pairs]
    ids = {name: user_id for user_id, name in collected.names.items()}
    return Weights(
        last_number=collected.last_number,
        majority=voted,
        model=model,
        first_wins=_at_equal_quality(model),
        num_pairs=len(signs),
        num_same=sum(vote == fitted for vote, fitted in signs if vote),
        num_reversed=sum(vote == -fitted for vote, fitted in signs if vote),
        num_undecided=voted.num_undecided,
        user_ids={labeler.name: ids[labeler.name] for labeler in model.labelers},
    )


def first_wins(rankings: Sequence[Ranking], *, resamples: int = RESAMPLES) -> Estimate:
    """Of two responses, how often the one shown first is preferred, and its interval by prompt."""
    won: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for ranking in rankings:
        for first, second in combinations(ranking.shown_order or (), 2):
            gap = ranking.ranks[second] - ranking.ranks[first]
            won[ranking.prompt.id] += 2 if gap > 0 else 1 if gap == 0 else 0  # in halves
            pairs[ranking.prompt.id] += 2
    prompts = list(pairs)
    above, below = [won[p] for p in prompts], [pairs[p] for p in prompts]
    return ratio_estimate(above, below, seed=0, resamples=resamples, share=True)


class Memory(Generic[Result]):
    """Keeps the results of slow work until the log has grown.

    A result that took long may be a little older: up to twenty times what it took, so that a page that many look at
    while many are labelling does not keep the machine busy.
    """

    SIZE = 24
    PATIENCE = 20.0
    LONG = 1.0

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[int, float, float, Result]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, last_number: int, work: Callable[[], Result]) -> Result:
        """What ``work`` gave for this key and this length of the log, or gives now."""
        with self._lock:
            number, at, cost, result = self._kept.get(key, (-1, 0.0, 0.0, None))
            is_fresh = cost >= self.LONG and time.monotonic() - at < self.PATIENCE * cost
            if result is None or not (number == last_number or is_fresh):
                before = time.thread_time()
                result = work()
                self._kept[key] = (last_number, time.monotonic(), time.thread_time() - before, result)
            self._kept.move_to_end(key)
            if len(self._kept) > self.SIZE:
                self._kept.popitem(last=False)
            return result


def _model_verdict(model: BradleyTerry, prompt_id: str, first: str, second: str) -> int:
    quality = model.qualities[prompt_id]
    return int(np.sign(quality[first] - quality[second]))


def _at_equal_quality(model: BradleyTerry) -> Estimate:
    """The bias of one place as a share instead of log-odds, a tie counting one half."""
    ends = (model.bias.value, model.bias.low, model.bias.high)
    return Estimate(*(None if b is None else 0.5 + math.sinh(b / 2) / (2 * math.cosh(b / 2) + model.tie) for b in ends))


def _left_out(session: Session, view: View) -> dict[str, int]:
    later = aliased(Judgement)
    superseded = exists().where(later.supersedes == Judgement.id)
    lines = (
        select(
            Judgement.kind, Judgement.item_id, Judgement.task_id, Batch.is_screening, Task.is_surplus,
            superseded.label("is_changed"),
        )
        .outerjoin(Item, Item.id == Judgement.item_id)
        .outerjoin(Batch, Batch.id == Item.batch_id)
        .outerjoin(Task, Task.id == Judgement.task_id)
        .where(Judgement.kind != "withdrawal", *view.where)
    )  # fmt: skip
    counts = Counter(_reason(*line) for line in session.execute(lines))
    return {reason: counts[reason] for reason in LEFT_OUT if counts[reason]}


def _reason(
    kind: str,
    item_id: str | None,
    task_id: str | None,
    is_screening: bool | None,
    is_surplus: bool | None,
    is_changed: bool,
) -> str | None:
    """Why a line of the log is not used; None if it is."""
    reasons = {
        "chat": item_id is None,
        "demonstration": kind == "demonstration",
        "screening": is_screening,
        "changed": is_changed,
        "surplus": is_surplus,
        "review": task_id is None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
