"""From the log to a file that training reads: what goes in, what is left out and why, written once under its hash.

A dataset is a view of the log at one moment. It is a JSON-lines file named after its content, so that the same data is
the same file, and a card beside it (``rankings-1a2b3c.json``) with the counts. Prompts for reinforcement learning come
in two parts that never mix, whatever is added later: some are kept for measuring what came of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from palate import disk
from palate.corpus.pairs import is_comparison
from palate.corpus.splits import conversation_id
from palate.errors import ConflictError
from palate.feedback.store.tables import Batch, Item, Judgement, PromptRow, ResponseRow, Task, User
from palate.feedback.tasks import clip_batches, judgements
from palate.records import Candidates, Demonstration, Prompt, Ranking, Record, Response, content_id

Kind = Literal["rankings", "thumbs", "demonstrations", "prompts", "evaluation prompts", "responses", "candidates"]

EVALUATION_SHARE = 0.2
FEWEST_TO_SPLIT = 20
"""With fewer prompts nothing is kept for evaluation: what is measured was trained on, and the dataset says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Records for one use.

    Attributes:
        left_out: how many were not used, by reason.
        people: who gave them.
        notes: what a reader of the figures must know.
    """

    kind: Kind
    records: Sequence[Record]
    left_out: dict[str, int]
    people: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The card of a file in the workspace.

    Attributes:
        path: relative to the workspace.
        sha256: of the file.
    """

    path: str
    kind: str
    count: int
    people: int
    sha256: str
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()


def collect(session: Session, kind: Kind) -> Collected:
    """Everything of one kind that may teach or test a model now."""
    if kind == "rankings":
        return _rankings(session)
    if kind == "thumbs":
        return _thumbs(session)
    if kind == "demonstrations":
        return _demonstrations(session)
    if kind == "candidates":
        return _candidates(session)
    return _prompts(session, evaluation=kind == "evaluation prompts")


def labeler_weights(session: Session) -> dict[str, float]:
    """The weight of every labeler whose judgements count more or less than one."""
    return {name: weight for name, weight in session.execute(select(User.name, User.weight)) if weight != 1}


def held_out_people(session: Session) -> frozenset[str]:
    """Names of those whose judgements train nothing."""
    return frozenset(session.scalars(select(User.name).where(User.is_held_out)))


def write(workspace: Path, collected: Collected) -> Dataset:
    """Write the file and its card, unless they are there.

    Raises:
        ConflictError: there is nothing to write.
    """
    if not collected.records:
        raise ConflictError(f"there are no {collected.kind} yet that a model could learn from")
    text = "".join(record.to_json() + "\n" for record in collected.records)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = f"data/{collected.kind.replace(' ', '-')}-{digest[:12]}.jsonl"
    dataset = Dataset(
        path=path,
        kind=collected.kind,
        count=len(collected.records),
        people=collected.people,
        sha256=digest,
        left_out=collected.left_out,
        notes=collected.notes,
    )
    (workspace / path).parent.mkdir(exist_ok=True)
    if not (workspace / path).exists():
        disk.write_text(workspace / path, text)
    disk.write_text((workspace / path).with_suffix(".json"), json.dumps(asdict(dataset), indent=2) + "\n")
    return dataset


def read_card(workspace: Path, path: str) -> Dataset | None:
    """The card of a dataset; None of a file that has none."""
    try:
        said = json.loads((workspace / path).with_suffix(".json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Dataset(**said | {"notes": tuple(said["notes"])})


def rankings_to_test_on(session: Session) -> list[Ranking]:
    """Comparisons that a reward model can be held against: those for training, and those of held-out people."""
    views = (judgements.for_training(), judgements.for_training(held_out=True))
    return [ranking for view in views for ranking in judgements.rankings(session, view) if is_comparison(ranking)]


def distinct_responses(rankings: Sequence[Ranking]) -> list[Candidates]:
    """Every prompt with the distinct responses that any ranking of it has."""
    responses: dict[str, dict[str, None]] = {}
    prompts: dict[str, Prompt] = {}
    for ranking in rankings:
        prompts.setdefault(ranking.prompt.id, ranking.prompt)
        responses.setdefault(ranking.prompt.id, {}).update({response.text: None for response in ranking.responses})
    return [
        Candidates.model_validate({"prompt": prompts[prompt_id], "responses": [{"text": text} for text in texts]})
        for prompt_id, texts in responses.items()
    ]


def for_evaluation(prompt: Prompt) -> bool:
    """Whether a prompt is kept for measuring; whole conversations are, by their beginning alone."""
    return int(content_id("evaluation", conversation_id(prompt)), 16) < EVALUATION_SHARE * 2**64


def _rankings(session: Session) -> Collected:
    lines = session.scalars(judgements.for_training().where(Judgement.kind != "demonstration")).all()
    read = [Ranking.model_validate(line.record) for line in lines]
    compared = [ranking for ranking in read if is_comparison(ranking)]
    left_out = _left_out(session, Judgement.kind != "demonstration")
    if len(compared) < len(read):
        left_out["a thumb, which compares nothing"] = len(read) - len(compared)
    people = {ranking.labeler for ranking in compared}
    return Collected(kind="rankings", records=compared, left_out=left_out, people=len(people))


def _thumbs(session: Session) -> Collected:
    is_thumb = Judgement.kind == "thumb"
    lines = session.scalars(judgements.for_training().where(is_thumb))
    records = [Ranking.model_validate(line.record) for line in lines]
    people = {ranking.labeler for ranking in records}
    return Collected(kind="thumbs", records=records, left_out=_left_out(session, is_thumb), people=len(people))


def _demonstrations(session: Session) -> Collected:
    found: list[Demonstration] = list(judgements.demonstrations(session, judgements.for_training()))
    left_out = _left_out(session, Judgement.kind.in_(("demonstration", "edit")))
    people = {each.author for each in found}
    return Collected(kind="demonstrations", records=found, left_out=left_out, people=len(people))


def _candidates(session: Session) -> Collected:
    """Every prompt with the different answers to it by models; what people wrote is theirs."""
    rows = session.execute(
        select(PromptRow.record, ResponseRow.record)
        .join(ResponseRow, ResponseRow.prompt_id == PromptRow.id)
        .where(ResponseRow.author_id.is_(None), clip_batches.language_only())
        .order_by(PromptRow.created_at, PromptRow.id, ResponseRow.created_at, ResponseRow.id)
    )
    prompts: dict[str, Prompt] = {}
    answers: dict[str, dict[str, Response]] = {}
    for asked, said in rows:
        prompt, response = Prompt.model_validate(asked), Response.model_validate(said)
        prompts.setdefault(prompt.id, prompt)
        answers.setdefault(prompt.id, {}).setdefault(response.text, response)
    found = [
        Candidates(prompt=prompts[prompt_id], responses=tuple(texts.values()))
        for prompt_id, texts in answers.items()
        if len(texts) > 1
    ]
    alone = len(answers) - len(found)
    left_out = {"prompts with one answer, which is compared with nothing": alone} if alone else {}
    return Collected(kind="candidates", records=found, left_out=left_out)


def _prompts(session: Session, *, evaluation: bool) -> Collected:
    asked = select(PromptRow.record).where(clip_batches.language_only())
    records = session.scalars(asked.order_by(PromptRow.created_at, PromptRow.id))
    prompts = [Prompt.model_validate(record) for record in records]
    kind: Kind = "evaluation prompts" if evaluation else "prompts"
    kept = [prompt for prompt in prompts if for_evaluation(prompt)]
    if len(prompts) < FEWEST_TO_SPLIT or not kept:
        note = f"with {len(prompts)} prompts none are kept for evaluation: what is measured was trained on"
        return Collected(kind=kind, records=prompts, left_out={}, notes=(note,))
    wanted = kept if evaluation else [prompt for prompt in prompts if not for_evaluation(prompt)]
    reason = "used in training" if evaluation else "kept for evaluation"
    return Collected(kind=kind, records=wanted, left_out={reason: len(prompts) - len(wanted)})


def _left_out(session: Session, of_kind: ColumnElement[bool]) -> dict[str, int]:
    """Why judgements that hold teach nothing: the first reason that applies to each."""
    taught = set(session.scalars(judgements.for_training().with_only_columns(Judgement.id)))
    lines = session.execute(
        select(Judgement, User.is_held_out, Task.is_surplus, Batch)
        .join(User, User.id == Judgement.user_id)
        .outerjoin(Task, Task.id == Judgement.task_id)
        .outerjoin(Item, Item.id == Judgement.item_id)
        .outerjoin(Batch, Batch.id == Item.batch_id)
        .where(of_kind, Judgement.id.in_(judgements.current().order_by(None).with_only_columns(Judgement.id)))
    )
    return dict(
        Counter(
            _reason(line, held_out, surplus, batch) for line, held_out, surplus, batch in lines if line.id not in taught
        )
    )


def _reason(line: Judgement, held_out: bool, surplus: bool | None, batch: Batch | None) -> str:
    if batch is not None and batch.is_screening:
        return "part of a screening test"
    if batch is not None and batch.kind == "arena":
        return "a blind comparison in the arena"
    if batch is not None and clip_batches.run_of(batch) is not None:
        return "a comparison of clips, which teaches the agent that asked"
    if not line.consent:
        return "no consent to training"
    if held_out:
        return "by a held-out labeler"
    return "handed in too late to count" if surplus else "discarded or settled by a reviewer"
