"""Who may label: agreement with known answers, and the threshold that decides.

A screening item has known ranks. Every pair of responses that they order asks one question; the same order is right, a
tie is half right, the opposite is wrong. The share over all pairs of the test decides, so an item with more pairs
weighs more. Pairs that the known ranks tie ask nothing.

The threshold is soft in the sense of InstructGPT's: `Result` says by how much it was reached and on which items it was
not, so that a researcher can look at a close case and decide otherwise by setting ``User.screening``. What is left
out: their cut-offs for flags and for demonstrations, which need other known answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from palate.feedback.store import people
from palate.feedback.store.tables import Batch, Item, ItemAuthor, Judgement, User
from palate.feedback.tasks import judgements
from palate.records import Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """One item of the test.

    Attributes:
        right: pairs ordered like the known ranks, a tie counting one half.
        pairs: how many the known ranks order.
    """

    item_id: str
    right: float
    pairs: int

    @property
    def agreement(self) -> float:
        """Share of the pairs."""
        return self.right / self.pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A whole test, its items in their order.

    Attributes:
        threshold: the agreement that passes.
    """

    items: tuple[ItemResult, ...]
    threshold: float

    @property
    def agreement(self) -> float:
        """Share of all pairs."""
        return sum(item.right for item in self.items) / sum(item.pairs for item in self.items)

    @property
    def passed(self) -> bool:
        """Whether the threshold was reached."""
        return self.agreement >= self.threshold

    @property
    def margin(self) -> float:
        """By how much; negative where it was missed."""
        return self.agreement - self.threshold

    @property
    def below(self) -> tuple[ItemResult, ...]:
        """The items on which the threshold was not reached."""
        return tuple(item for item in self.items if item.agreement < self.threshold)


def settle(session: Session, user: User, batch: Batch) -> Result | None:
    """Pass or fail someone who has now answered the whole test; None while there is nothing to decide.

    Call it in the transaction of every submission. It decides once: what is corrected later changes nothing.
    """
    person = session.get_one(User, user.id)
    if not batch.is_screening or person.role != "labeler" or person.screening is not None:
        return None
    result = result_of(session, person, batch)
    if result is not None:
        person.screening = "passed" if result.passed else "failed"
        action = f"screening {person.screening}"
        people.record(session, person.id, action, batch=batch.id, agreement=result.agreement, margin=result.margin)
        session.flush()
    return result


def result_of(session: Session, user: User, batch: Batch) -> Result | None:
    """How somebody did in a test, or None before they have answered all of it."""
    assert batch.threshold is not None, "a screening batch has a threshold"
    wrote = exists().where(ItemAuthor.item_id == Item.id, ItemAuthor.user_id == user.id)
    items = session.scalars(select(Item).where(Item.batch_id == batch.id, ~wrote).order_by(Item.position)).all()
    said = _said(session, user, items)
    wanted = len(items) if batch.per_labeler is None else min(len(items), batch.per_labeler)
    if not said or len(said) < wanted:
        return None
    marked = tuple(mark(item.id, item.gold or [], said[item.id]) for item in items if item.id in said)
    return Result(items=marked, threshold=batch.threshold)


def mark(item_id: str, gold: Sequence[int], ranks: Sequence[int]) -> ItemResult:
    """Compare ranks with known ranks, [K] each."""
    indices = range(len(gold))
    gaps = [ranks[j] - ranks[i] for i in indices for j in indices if gold[i] < gold[j]]
    right = sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps)
    return ItemResult(item_id=item_id, right=right, pairs=len(gaps))


def _said(session: Session, user: User, items: Sequence[Item]) -> dict[str, tuple[int, ...]]:
    """[K] ranks by item, as they now stand."""
    mine = judgements.current().where(
        Judgement.user_id == user.id,
        Judgement.item_id.in_([item.id for item in items]),
        Judgement.kind == "ranking",
        Judgement.task_id.is_not(None),
    )
    lines = session.scalars(mine)
    return {line.item_id: Ranking.model_validate(line.record).ranks for line in lines if line.item_id is not None}
