"""Review of disagreements: the most disputed items, what each labeler said of them, and what is to be done.

An item is disputed by the share of its meetings (``meetings.py``) that ended in disagreement: of every two labelers
and every two of its responses, how often they contradict each other, a tie against a preference counting one half.

A reviewer keeps all judgements, discards the item, or settles it with a ranking of their own. The latest decision holds
(`judgements.for_training`); a settlement that is overruled is withdrawn. Reviewers see the responses shuffled and
without the names of models, like a labeler. Who has judged an item or written one of its responses, or has it in hand,
does not review it and does not see what the others said: they could still change their own judgement.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.errors import ConflictError, ForbiddenError, NotFoundError
from palate.feedback.store import people
from palate.feedback.store.tables import Batch, Item, ItemAuthor, Judgement, PromptRow, Review, Task, User
from palate.feedback.tasks import blind, judgements, queue
from palate.feedback.tasks.meetings import Contested, contested, disagreement, opinions
from palate.randomness import permutation
from palate.records import Prompt, Ranking

REVIEWED_KINDS = ("ranking", "pair")

Decision: TypeAlias = Literal["keep", "discard", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disputed:
    """An item that at least two people judged.

    Attributes:
        decision: the latest review's, if there is one.
        is_own: the reviewer who asks has to do with it, so somebody else reviews it.
    """

    item: Contested
    decision: str | None
    is_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One labeler's judgement, by place on the reviewer's screen.

    Attributes:
        alias: "Labeler 1", in an order that tells nothing.
        name: who it is; for a reviewer who asks for names.
        nudges: what looked odd when it was handed in.
    """

    alias: str
    name: str
    ranks: tuple[int, ...]
    ratings: tuple[float, ...] | None
    flags: tuple[tuple[str, ...], ...] | None
    strength: float | None
    comment: str
    seconds: float | None
    nudges: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An item with everything that is needed to decide.

    Attributes:
        texts: [K], by place, models' names blotted out.
        review: the latest decision, and ``reviewer`` its author's name.
        settled_ranks: [K] by place, if it was settled.
    """

    item: Item
    batch: Batch
    prompt: Prompt
    texts: tuple[str, ...]
    said: tuple[Said, ...]
    disagreement: float
    review: Review | None
    reviewer: str
    settled_ranks: tuple[int, ...] | None


def disputed(session: Session, reviewer: User, *, batch_id: str | None = None) -> list[Disputed]:
    """Items that labelers disagree about, the most disputed first."""
    where = [Batch.kind.in_(REVIEWED_KINDS), *([] if batch_id is None else [Batch.id == batch_id])]
    latest, own = _latest_reviews(session), _own_items(session, reviewer)
    return [
        Disputed(
            item=item,
            decision=latest[item.item_id].decision if item.item_id in latest else None,
            is_own=item.item_id in own,
        )
        for item in contested(opinions(session, *where))
        if item.disagreement > 0 or item.item_id in latest
    ]


def prompt_texts(session: Session, prompt_ids: Collection[str]) -> Mapping[str, str]:
    """What each prompt asks, by its id."""
    rows = session.scalars(select(PromptRow).where(PromptRow.id.in_(prompt_ids)))
    return {row.id: Prompt.model_validate(row.record).text for row in rows}


def case_of(session: Session, reviewer: User, item_id: str) -> Case:
    """Everything about one item.

    Raises:
        NotFoundError: no such item, or none that is reviewed.
        ForbiddenError: the reviewer has judged it or written a response.
    """
    item, batch = _reviewable(session, reviewer, item_id)
    order = queue.shown_order(item, reviewer.id)
    review = _latest_reviews(session, item.id).get(item.id)
    settlement = _settlement(session, review)
    texts = blind.texts_of(session, item)
    return Case(
        item=item,
        batch=batch,
        prompt=judgements.prompt_of(session, item),
        texts=judgements.by_place(order, texts),
        said=_said(session, item, order),
        disagreement=disagreement(opinions(session, Item.id == item.id)),
        review=review,
        reviewer=session.get_one(User, review.reviewer_id).name if review else "",
        settled_ranks=judgements.by_place(order, settlement.ranks) if settlement else None,
    )


def decide(
    session: Session,
    reviewer: User,
    item_id: str,
    decision: Decision,
    *,
    note: str = "",
    ranks: Sequence[int] = (),
    seconds: float | None = None,
    before: str | None = None,
    now: float | None = None,
) -> Review:
    """Write a decision down.

    Args:
        ranks: [K] by place, for a settlement.
        before: id of the review that the reviewer saw, None if there was none.

    Raises:
        NotFoundError: no such item, or none that is reviewed.
        ForbiddenError: the reviewer has judged it or written a response.
        ConflictError: somebody else decided meanwhile, or the ranks do not fit.
    """
    now = time.time() if now is None else now
    session.execute(select(Item.id).where(Item.id == item_id).with_for_update(key_share=True))  # one decision at a time
    item, _ = _reviewable(session, reviewer, item_id)
    earlier = _latest_reviews(session, item.id).get(item.id)
    if (earlier.id if earlier else None) != before:
        raise ConflictError("somebody else has decided about this item meanwhile: reload the page")
    if decision == "discard" and not note.strip():
        raise ConflictError("say in a note why the item is discarded")
    _withdraw(session, reviewer, earlier, now)
    line = _settle(session, reviewer, item, ranks, seconds, now) if decision == "settle" else None
    review = Review(
        item_id=item.id,
        reviewer_id=reviewer.id,
        decision=decision,
        note=note.strip(),
        judgement_id=line.id if line else None,
        created_at=now if earlier is None else max(now, earlier.created_at + 1e-3),
    )
    session.add(review)
    people.record(session, reviewer.id, "reviewed", now=now, item=item.id, decision=decision)
    session.flush()
    return review


def why_not(session: Session, reviewer: User, item_id: str) -> str | None:
    """Why somebody should leave an item to another reviewer; None if they need not."""
    if session.get(ItemAuthor, (item_id, reviewer.id)) is not None:
        return "you wrote one of the responses: another reviewer decides about this item"
    mine = select(Task.state).where(Task.item_id == item_id, Task.user_id == reviewer.id)
    state = session.scalar(mine.where(Task.state.in_(("leased", "submitted"))))
    if state is None:
        return None
    what = "judged this item yourself" if state == "submitted" else "have this item to judge yourself"
    return f"you {what}: another reviewer decides about it"


def _reviewable(session: Session, reviewer: User, item_id: str) -> tuple[Item, Batch]:
    item = session.get(Item, item_id)
    batch = session.get_one(Batch, item.batch_id) if item else None
    if item is None or batch is None or batch.kind not in REVIEWED_KINDS or batch.is_screening:
        raise NotFoundError("no such item")
    reason = why_not(session, reviewer, item_id)
    if reason is not None:
        raise ForbiddenError(reason)
    return item, batch


def _own_items(session: Session, reviewer: User) -> set[str]:
    tasks = select(Task.item_id).where(Task.user_id == reviewer.id, Task.state.in_(("leased", "submitted")))
    wrote = select(ItemAuthor.item_id).where(ItemAuthor.user_id == reviewer.id)
    return {*session.scalars(tasks), *session.scalars(wrote)}


def _latest_reviews(session: Session, item_id: str | None = None) -> dict[str, Review]:
    reviews = select(Review).order_by(Review.created_at, Review.id)
    if item_id is not None:
        reviews = reviews.where(Review.item_id == item_id)
    return {review.item_id: review for review in session.scalars(reviews)}


def _said(session: Session, item: Item, order: Sequence[int]) -> tuple[Said, ...]:
    numbers = {opinion.number for opinion in opinions(session, Item.id == item.id)}
    lines = session.scalars(select(Judgement).where(Judgement.number.in_(numbers)).order_by(Judgement.id)).all()
    shuffled = [lines[index] for index in permutation(len(lines), "aliases", item.id)]
    return tuple(_one(session, line, f"Labeler {place}", order) for place, line in enumerate(shuffled, start=1))


def _one(session: Session, line: Judgement, alias: str, order: Sequence[int]) -> Said:
    ranking = Ranking.model_validate(line.record)
    return Said(
        alias=alias,
        name=session.get_one(User, line.user_id).name,
        ranks=judgements.by_place(order, ranking.ranks),
        ratings=judgements.by_place(order, ranking.ratings) if ranking.ratings else None,
        flags=judgements.by_place(order, ranking.flags) if ranking.flags else None,
        strength=ranking.strength,
        comment=line.comment,
        seconds=line.seconds,
        nudges=tuple(line.quality.get("nudges", ())),
    )


def _settlement(session: Session, review: Review | None) -> Ranking | None:
    if review is None or review.judgement_id is None:
        return None
    line = session.scalars(select(Judgement).where(Judgement.id == review.judgement_id)).one()
    return Ranking.model_validate(line.record)


def _withdraw(session: Session, reviewer: User, earlier: Review | None, now: float) -> None:
    """An overruled settlement teaches nothing any more."""
    if earlier is not None and earlier.judgement_id is not None:
        line = session.scalars(select(Judgement).where(Judgement.id == earlier.judgement_id)).one()
        judgements.append(session, "withdrawal", {}, reviewer, like=line, supersedes=line, now=now)


def _settle(
    session: Session, reviewer: User, item: Item, ranks: Sequence[int], seconds: float | None, now: float
) -> Judgement:
    if len(ranks) != len(item.response_ids):
        raise ConflictError(f"give each of the {len(item.response_ids)} responses a rank")
    order = queue.shown_order(item, reviewer.id)
    version = judgements.guideline_version(session)
    record = Ranking(
        prompt=judgements.prompt_of(session, item),
        responses=tuple(judgements.responses_of(session, item)),
        ranks=judgements.by_response(order, judgements.dense(ranks)),
        labeler=reviewer.name,
        shown_order=tuple(order),
        guideline_version="" if version is None else str(version),
        seconds=seconds,
    )
    said = record.model_dump(mode="json", exclude_defaults=True)
    quality = {"review": True}
    return judgements.append(
        session, "ranking", said, reviewer, item_id=item.id, seconds=seconds, quality=quality, now=now
    )
