"""Clips of an agent's behaviour, compared by people: a batch of pairs whose responses name pictures of a run.

A run that learns from people asks for comparisons in rounds (`stages/agent`). Those that wait become a batch like
others: pairs, with leases, orders of their own, undo, agreement and review. The batch knows the run, by its directory
in the workspace; what was said goes back there as rankings, and teaches nothing else: a model of language has no use
for the name of a picture, and a question about clips is no prompt.

Who skips says nothing of a comparison. It is left to others, and once nobody is to be asked any more it goes back as
skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError
from palate.feedback.store.tables import Batch, Item, Judgement, PromptRow, ResponseRow, Task, User
from palate.feedback.tasks import batches, judgements
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Candidates, Prompt, Ranking, Response

SOURCE = "clips"
"""Of prompts that ask about clips, which no model of language is to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What goes back to a run.

    Attributes:
        rankings: that count, in the order in which they were given.
        skipped: comparisons that were skipped, and that nobody answered.
        left_out: judgements that hold and do not count: of held-out people, late ones, what a reviewer discarded.
        open: comparisons that nobody has dealt with yet.
    """

    rankings: tuple[Ranking, ...]
    skipped: tuple[Candidates, ...]
    left_out: int
    open: int


def run_of(batch: Batch) -> str | None:
    """The directory of the run whose clips a batch compares, from the workspace; None of other batches."""
    found: str | None = batch.settings.get("clips")
    return found


def kind_of(batch: Batch) -> str:
    """What people do in a batch, by name: its kind, or "clips"."""
    return batch.kind if run_of(batch) is None else "clips"


def language_only() -> ColumnElement[bool]:
    """Whether a prompt is one that a model of language may answer."""
    return PromptRow.source != SOURCE


def create(session: Session, plan: BatchPlan, run: str, waiting: Iterable[Candidates], *, by: User | None) -> Batch:
    """A batch of the comparisons that wait for people and are in no batch of this run yet.

    Args:
        plan: its kind and settings are those of clips, whatever it says.
        run: its directory, from the workspace.

    Raises:
        ConflictError: there is nothing left to ask.
    """
    known = {_key(pair) for batch in of_run(session, run) for pair in _pairs_of(session, batch).values()}
    new = [pair for pair in waiting if _key(pair) not in known]
    if not new:
        raise ConflictError("every comparison that this run waits for is in a batch already")
    settings = {"clips": run, "ratings": False, "flags": []}
    batch = batches.create_batch(session, replace(plan, kind="pair", settings=settings), by=by)
    batches.add_candidates(session, batch, new, source=SOURCE)
    return batch


def of_run(session: Session, run: str) -> list[Batch]:
    """The batches of a run, the oldest first."""
    mine = Batch.settings["clips"].as_string() == run
    return list(session.scalars(select(Batch).where(mine).order_by(Batch.created_at, Batch.id)))


def answers(session: Session, run: str) -> Answers:
    """What people have said of a run's clips so far, in all of its batches."""
    ids = [batch.id for batch in of_run(session, run)]
    items = select(Item.id).where(Item.batch_id.in_(ids))
    counted = judgements.for_training(of_clips=True).where(Judgement.item_id.in_(items))
    lines = session.scalars(counted).all()
    held = judgements.current().where(Judgement.item_id.in_(items)).order_by(None)
    total = session.scalar(held.with_only_columns(func.count())) or 0
    judged = {line.item_id for line in lines}
    was_skipped = exists().where(Task.item_id == Item.id, Task.state == "skipped")
    is_in_hand = exists().where(Task.item_id == Item.id, Task.state == "leased")
    gone = set(session.scalars(select(Item.id).where(Item.batch_id.in_(ids), was_skipped, ~is_in_hand))) - judged
    pairs = {key: pair for batch in of_run(session, run) for key, pair in _pairs_of(session, batch).items()}
    return Answers(
        rankings=tuple(Ranking.model_validate(line.record) for line in lines),
        skipped=tuple(pair for key, pair in pairs.items() if key in gone),
        left_out=total - len(lines),
        open=len(pairs.keys() - judged - gone),
    )


def _pairs_of(session: Session, batch: Batch) -> dict[str, Candidates]:
    """The comparisons of a batch, by the id of their item, in its order."""
    rows = session.execute(
        select(Item, PromptRow.record)
        .join(PromptRow, PromptRow.id == Item.prompt_id)
        .where(Item.batch_id == batch.id)
        .order_by(Item.position)
    ).all()
    wanted = {response_id for item, _ in rows for response_id in item.response_ids}
    found = session.scalars(select(ResponseRow).where(ResponseRow.id.in_(wanted)))
    responses = {row.id: Response.model_validate(row.record) for row in found}
    return {
        item.id: Candidates(
            prompt=Prompt.model_validate(record), responses=tuple(responses[each] for each in item.response_ids)
        )
        for item, record in rows
    }


def _key(pair: Candidates) -> tuple[str, ...]:
    return (pair.prompt.id, *(response.text for response in pair.responses))
