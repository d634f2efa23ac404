"""Material for the queue: prompts, responses, and batches of items made of them.

What is already there is not added twice: prompts are recognised by their ids, and the counts say how many were new.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError
from palate.feedback.store.tables import Batch, Item, ItemAuthor, PromptRow, ResponseRow, User
from palate.feedback.tasks.judgements import flags_offered
from palate.feedback.tasks.queue import UNLIMITED_PLACES
from palate.records import Candidates, Prompt, Response


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Everything about a batch except its items; see `tables.Batch`.

    Attributes:
        settings: ``ratings`` and ``flags`` are what is asked beside the ranking; nothing unless they say so.
    """

    name: str
    kind: str = "ranking"
    overlap: int = 1
    per_labeler: int | None = None
    lease_seconds: float = 1800.0
    is_screening: bool = False
    threshold: float | None = None
    settings: dict[str, Any] | None = None
    round_number: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about each response beside its rank: a rating, and which flags."""

    ratings: bool
    flags: tuple[str, ...]

    @classmethod
    def of(cls, batch: Batch) -> Asked:
        """What a batch says; a ranking from before this was written down asks for everything, as it always did."""
        whole = batch.kind == "ranking"
        return cls(bool(batch.settings.get("ratings", whole)), flags_offered(batch))

    @property
    def settings(self) -> dict[str, Any]:
        """As a batch keeps it."""
        return {"ratings": self.ratings, "flags": list(self.flags)}


def add_prompts(session: Session, prompts: Iterable[Prompt], *, source: str = "", now: float | None = None) -> int:
    """Add prompts that are not there yet; returns how many were new."""
    now = time.time() if now is None else now
    added = 0
    for prompt in prompts:
        if session.get(PromptRow, prompt.id) is None:
            record = prompt.model_dump(mode="json", exclude_defaults=True)
            session.add(PromptRow(id=prompt.id, record=record, source=source, created_at=now))
            added += 1
    session.flush()
    return added


def add_response(
    session: Session,
    prompt_id: str,
    response: Response,
    *,
    model_id: str | None = None,
    author_id: str | None = None,
    now: float | None = None,
) -> ResponseRow:
    """A response to a prompt that is there."""
    row = ResponseRow(
        prompt_id=prompt_id,
        record=response.model_dump(mode="json", exclude_defaults=True),
        model_id=model_id,
        author_id=author_id,
        created_at=time.time() if now is None else now,
    )
    session.add(row)
    session.flush()
    return row


def create_batch(session: Session, plan: BatchPlan, *, by: User | None, now: float | None = None) -> Batch:
    """An open batch without items.

    Raises:
        ConflictError: no overlap, or a screening test that cannot be marked.
    """
    if plan.overlap < 1:
        raise ConflictError("at least one person judges each item: set an overlap of 1 or more")
    if plan.is_screening and plan.threshold is None:
        raise ConflictError("a screening test needs the share of agreement that passes it")
    if plan.is_screening and plan.kind not in ("ranking", "pair"):
        raise ConflictError("a screening test is made of rankings or pairs, whose answers are known")
    batch = Batch(
        name=plan.name,
        kind=plan.kind,
        overlap=plan.overlap,
        per_labeler=plan.per_labeler,
        lease_seconds=plan.lease_seconds,
        is_screening=plan.is_screening,
        threshold=plan.threshold,
        settings=(Asked(False, ()).settings if plan.kind == "ranking" else {}) | (plan.settings or {}),
        round_number=plan.round_number,
        created_by=by.id if by else None,
        created_at=time.time() if now is None else now,
    )
    session.add(batch)
    session.flush()
    return batch


def add_item(
    session: Session,
    batch: Batch,
    prompt_id: str,
    response_ids: Sequence[str] = (),
    *,
    gold: Sequence[int] | None = None,
    priority: float = 0.0,
) -> Item:
    """One item at the end of a batch.

    Raises:
        ConflictError: responses or known ranks that do not fit the batch or the prompt.
    """
    _check_item(batch, len(response_ids), gold)
    authors = _authors(session, prompt_id, response_ids)
    position = session.scalar(select(func.count()).where(Item.batch_id == batch.id)) or 0
    item = Item(
        batch_id=batch.id,
        prompt_id=prompt_id,
        response_ids=list(response_ids),
        gold=None if gold is None else list(gold),
        priority=priority,
        position=position,
        open_places=UNLIMITED_PLACES if batch.is_screening else batch.overlap,
    )
    session.add(item)
    session.flush()
    session.add_all(ItemAuthor(item_id=item.id, user_id=author) for author in authors)
    session.flush()
    return item


def add_candidates(
    session: Session,
    batch: Batch,
    candidates: Iterable[Candidates],
    *,
    model_id: str | None = None,
    source: str = "",
    now: float | None = None,
) -> int:
    """One item for each prompt with its responses; returns how many."""
    count = 0
    for each in candidates:
        add_prompts(session, [each.prompt], source=source, now=now)
        rows = [add_response(session, each.prompt.id, r, model_id=model_id, now=now) for r in each.responses]
        add_item(session, batch, each.prompt.id, [row.id for row in rows])
        count += 1
    return count


def _authors(session: Session, prompt_id: str, response_ids: Sequence[str]) -> set[str]:
    """Who wrote these responses to this prompt."""
    rows = session.scalars(
        select(ResponseRow).where(ResponseRow.id.in_(response_ids), ResponseRow.prompt_id == prompt_id)
    ).all()
    if len(rows) != len(response_ids):
        raise ConflictError("an item has different responses, all to its own prompt")
    return {row.author_id for row in rows if row.author_id is not None}


def _check_item(batch: Batch, count: int, gold: Sequence[int] | None) -> None:
    if batch.kind == "demonstration" and count:
        raise ConflictError("items of a demonstration batch have a prompt and no responses")
    if batch.kind in ("pair", "arena") and count != 2:
        raise ConflictError(f"items of this batch have two responses, not {count}")
    if batch.kind == "ranking" and not 1 <= count <= 9:
        raise ConflictError(f"between 1 and 9 responses can be ranked on one screen, not {count}")
    if gold is not None and (len(gold) != count or min(gold, default=0) != 1):
        raise ConflictError(f"known ranks must be {count} numbers, the best of them 1")
    if batch.is_screening and len(set(gold or ())) < 2:
        raise ConflictError("an item of a screening test needs known ranks that prefer one response to another")
