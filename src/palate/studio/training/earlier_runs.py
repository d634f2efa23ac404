"""What earlier runs have made that others may learn from beside what people said: judgements, demonstrations.

It is no part of the log: each is one run's file, marked with where it comes from, and is used where somebody ticks it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.corpus import read_demonstrations, read_rankings
from palate.errors import NotFoundError
from palate.feedback.store.tables import Job
from palate.recipe import Data
from palate.records import Record

Kind = Literal["rankings", "demonstrations"]
KEPT, MINED = "kept.jsonl", "mined.jsonl"
"""What a filtering and a mining job write into their directories."""
FILES: Mapping[str, str] = {"judge": "rankings.jsonl", "revise": "demonstrations.jsonl", "mine": MINED}
"""By command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file of a finished run.

    Attributes:
        path: relative to the workspace.
    """

    job: Job
    kind: Kind
    path: str
    count: int


def made(session: Session, workspace: Path, kind: str) -> list[Made]:
    """All of a kind, the newest first."""
    jobs = session.scalars(select(Job).where(Job.state == "done", Job.stage.in_(FILES)).order_by(Job.created_at.desc()))
    found = [each for job in jobs if (each := _of(workspace, job)) is not None]
    return [each for each in found if each.kind == kind]


def chosen(session: Session, workspace: Path, kind: str, ids: Sequence[str]) -> list[Made]:
    """Those of these runs.

    Raises:
        NotFoundError: one of them has made nothing of this kind.
    """
    known = {each.job.id: each for each in made(session, workspace, kind)}
    if strange := [each for each in ids if each not in known]:
        raise NotFoundError(f"run {strange[0]} has made no {kind} that could be learned from")
    return [known[each] for each in dict.fromkeys(ids)]


def records_of(workspace: Path, found: Sequence[Made]) -> list[Record]:
    """What is in them."""
    records: list[Record] = []
    for each in found:
        data = Data(path=str(workspace / each.path))
        records += read_rankings(data).records if each.kind == "rankings" else read_demonstrations(data).records
    return records


def _of(workspace: Path, job: Job) -> Made | None:
    path = f"{job.directory}/{FILES[job.stage]}"
    try:
        count = (workspace / path).read_bytes().count(b"\n")
    except FileNotFoundError:
        return None
    return Made(job=job, kind=_kind(job), path=path, count=count) if count else None


def _kind(job: Job) -> Kind:
    if job.stage == "mine":
        return "demonstrations" if tomllib.loads(job.recipe)["kind"] == "hygiene" else "rankings"
    return "demonstrations" if job.stage == "revise" else "rankings"
