"""Clips of an agent's behaviour: a batch of what a run waits for, its moving pictures, and the answers back to the run.

A picture is asked for by task or item, and place; where it lies is said by the batch and by the response, which are on
the server. It is an image to the browser: nothing in it can run, and its own policy says so again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate import disk
from palate.errors import ConflictError, NotFoundError
from palate.feedback.labelers import reviewing
from palate.feedback.store import people, rounds
from palate.feedback.store.tables import Batch, Item, Job, User
from palate.feedback.tasks import clip_batches, judgements, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.studio.labeling.batches import BatchOut, batch_of, batch_out
from palate.studio.labeling.clip_runs import inside, picture, runs_that_wait
from palate.studio.labeling.tasks import In
from palate.studio.training import jobs
from palate.studio.web.access import ADMINS, LABELERS, RESEARCHERS, REVIEWERS, Db, Home, Person, allow
from palate.studio.web.workspace import Workspace

router = APIRouter(tags=["clips"])

PICTURE_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
RANKINGS, SKIPPED = "rankings-studio.jsonl", "skipped-studio.jsonl"


class ClipsIn(In):
    """A batch of all that a run waits for; ``name`` is what labelers see."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    run: Annotated[str, Field(min_length=1, max_length=300)]
    overlap: Annotated[int, Field(ge=1, le=50)] = 1
    per_labeler: Annotated[int, Field(ge=1, le=100_000)] | None = None
    lease_minutes: Annotated[float, Field(ge=1, le=1440)] = 30.0


class WaitingOut(In):
    """A run that waits for people, and how many comparisons it asks for."""

    run: str
    comparisons: int
    problem: str


class HandedOverOut(In):
    """What went back to a run.

    Attributes:
        left_out: judgements that do not count: of held-out people, late ones, what a reviewer discarded.
        open: comparisons that nobody has dealt with; the run will wait for these.
        job_id: the job that goes on; null where the command has to be given.
    """

    run: str
    answers: int
    skipped: int
    left_out: int
    open: int
    job_id: str | None


@router.get("/api/clips", summary="Runs that wait for people to compare clips")
@allow(RESEARCHERS)
def list_waiting(home: Home) -> list[WaitingOut]:
    """By their directories."""
    return [
        WaitingOut(run=each.run, comparisons=len(each.pairs), problem=each.problem) for each in runs_that_wait(home)
    ]


@router.post("/api/batches/clips", tags=["batches"], summary="Let people compare clips", status_code=201)
@allow(ADMINS)
def make_batch(store: Db, home: Home, person: Person, new: ClipsIn) -> BatchOut:
    """Of what a run waits for and is in no batch yet."""
    found = next((each for each in runs_that_wait(home) if each.run == new.run), None)
    if found is None:
        raise NotFoundError("no run of that name waits for people")
    if found.problem:
        raise ConflictError(found.problem)
    plan = BatchPlan(
        name=new.name.strip(),
        overlap=new.overlap,
        per_labeler=new.per_labeler,
        lease_seconds=new.lease_minutes * 60,
    )
    with store.write() as session:
        by = session.get_one(User, person.id)
        batch = clip_batches.create(session, plan, found.run, found.pairs, by=by)
        return batch_out(rounds.batch_view(session, batch))


@router.post("/api/clips/{batch_id}/go-on", summary="Give the answers to the run and let it go on")
@allow(ADMINS)
def go_on(store: Db, home: Home, person: Person, batch_id: str) -> HandedOverOut:
    """Of all batches of the run, anew each time; a run that was started here goes on by itself."""
    with store.read() as session:
        run = clips_of(batch_of(session, batch_id))
        found = clip_batches.answers(session, run)
    directory = inside(home, run)
    if not found.rankings and not found.skipped:
        raise ConflictError("nobody has compared anything yet")
    for name, records in ((RANKINGS, found.rankings), (SKIPPED, found.skipped)):
        if records:
            disk.write_text(directory / name, "".join(record.to_json() + "\n" for record in records))
        else:
            (directory / name).unlink(missing_ok=True)
    with store.write() as session:
        job = _job_of(session, run)
        if job is not None and job.state in ("failed", "cancelled"):
            jobs.resume(session, home, job, by=person)
        people.record(session, person.id, "gave answers to a run", run=run, answers=len(found.rankings))
    return HandedOverOut(
        run=run,
        answers=len(found.rankings),
        skipped=len(found.skipped),
        left_out=found.left_out,
        open=found.open,
        job_id=None if job is None else job.id,
    )


@router.get("/label/{task_id}/clips/{place}.svg", include_in_schema=False)
@allow(LABELERS)
def picture_of_task(store: Db, home: Home, person: Person, task_id: str, place: int, still: bool = False) -> Response:
    """The clip that stands in a place of somebody's task."""
    with store.read() as session:
        task = queue.task_of(session, person, task_id)
        item = session.get_one(Item, task.item_id)
        names = [response.text for response in judgements.responses_of(session, item)]
        return _shown(home, session, item, judgements.by_place(task.shown_order, names), place, still=still)


@router.get("/review/{item_id}/clips/{place}.svg", include_in_schema=False)
@allow(REVIEWERS)
def picture_of_item(store: Db, home: Home, person: Person, item_id: str, place: int, still: bool = False) -> Response:
    """The clip that stands in a place on a reviewer's page."""
    with store.read() as session:
        case = reviewing.case_of(session, person, item_id)
        return _shown(home, session, case.item, case.texts, place, still=still)


def clips_of(batch: Batch) -> str:
    """The run whose clips a batch compares.

    Raises:
        ConflictError: it compares something else.
    """
    run = clip_batches.run_of(batch)
    if run is None:
        raise ConflictError("this batch compares no clips")
    return run


def _shown(home: Workspace, session: Session, item: Item, names: Sequence[str], place: int, *, still: bool) -> Response:
    """One clip of an item, whose clips have these names by place.

    Raises:
        NotFoundError: the item is not about clips, or the picture is gone with its run.
    """
    run = clip_batches.run_of(session.get_one(Batch, item.batch_id))
    if run is None or not 0 <= place < len(names):
        raise NotFoundError("no such clip")
    drawn = picture(home, run, names[place], still=still)
    return Response(drawn, media_type="image/svg+xml", headers={"Content-Security-Policy": PICTURE_POLICY})


def _job_of(session: Session, run: str) -> Job | None:
    """The job whose run this is, or is a part of."""
    parents = [str(parent) for parent in (PurePosixPath(run), *PurePosixPath(run).parents)]
    return session.scalars(select(Job).where(Job.directory.in_(parents))).first()
