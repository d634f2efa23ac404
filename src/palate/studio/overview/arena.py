"""The arena's pages: compare two models blind, watch how far it is, and close it to see which was which."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.feedback.store import people, policies
from palate.feedback.store.tables import Batch, Job, User
from palate.feedback.tasks import arena, queue
from palate.feedback.tasks.arena import LabelerTally, Tally
from palate.intervals import Estimate
from palate.studio.training import arena_jobs, jobs
from palate.studio.training.progress import progress_of
from palate.studio.web import charts
from palate.studio.web.access import LABELERS, RESEARCHERS, REVIEWERS, Db, Home, Person, allow
from palate.studio.web.charts import Bar
from palate.studio.web.rendering import page
from palate.studio.web.workspace import Workspace

router = APIRouter()


class ArenaIn(BaseModel):
    """Which two models, and on how many prompts; ``kept`` takes those that no model is trained on, if there are any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=80)]
    first_model_id: Annotated[str, Field(max_length=100)]
    second_model_id: Annotated[str, Field(max_length=100)]
    num_prompts: Annotated[int, Field(ge=1, le=2000)] = 50
    overlap: Annotated[int, Field(ge=1, le=50)] = 1
    kept: bool = True
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7
    max_new_tokens: Annotated[int, Field(ge=1, le=2048)] = 128


class EstimateOut(BaseModel):
    """A number and its 95% interval."""

    value: float | None
    low: float | None
    high: float | None


class LabelerOut(BaseModel):
    """How one person voted; ``left`` is the share of their preferences for what stood left."""

    name: str
    wins: int
    ties: int
    losses: int
    rate: EstimateOut
    left: EstimateOut


class ResultOut(BaseModel):
    """The first model's win rate by prompt, and what could explain it away."""

    rate: EstimateOut
    wins: int
    ties: int
    losses: int
    num_prompts: int
    left: EstimateOut
    at_equal_length: EstimateOut | None
    words: tuple[float, float]
    labelers: list[LabelerOut]


class DrawingOut(BaseModel):
    """How far the answers are."""

    state: str
    message: str
    step: int
    total: int | None


class ArenaOut(BaseModel):
    """An arena; ``models`` and ``result`` are told when it is closed, and not before."""

    id: str
    name: str
    state: Literal["drawing", "open", "paused", "closed"]
    created_at: float
    closed_at: float | None
    notes: list[str]
    pairs: int
    votes: int
    wanted: int
    labelers: int
    left_out: int
    alike: int
    drawing: DrawingOut | None
    models: tuple[str, str] | None
    result: ResultOut | None


@router.get("/arena", include_in_schema=False)
@allow(LABELERS)
def arena_page(request: Request, store: Db, home: Home, person: Person) -> HTMLResponse:
    """For labelers what there is to judge, for researchers every arena."""
    with store.read() as session:
        user = session.get_one(User, person.id)
        waiting = [batch for batch in queue.batches_for(session, user) if batch.kind == "arena"]
        mine = [_line(home, session, batch) for batch in arena.arenas(session)] if person.role in REVIEWERS else []
    return page(request, "overview/arena.html", waiting=waiting, arenas=mine, may_make=person.role in RESEARCHERS)


@router.get("/arena/new", include_in_schema=False)
@allow(RESEARCHERS)
def new_page(request: Request, store: Db) -> HTMLResponse:
    """Two models and how many prompts."""
    with store.read() as session:
        models = policies.policies(session)
    return page(request, "overview/arena_new.html", models=[(model.id, model.name) for model in models])


@router.get("/arena/{arena_id}", include_in_schema=False)
@allow(REVIEWERS)
def one_page(request: Request, store: Db, home: Home, person: Person, arena_id: str) -> HTMLResponse:
    """Progress, and in the end the result."""
    with store.read() as session:
        shown = _out(home, session, arena.arena_of(session, arena_id))
    pictures = _pictures(shown) if shown.result and shown.models else []
    return page(
        request, "overview/arena_one.html", arena=shown, pictures=pictures, may_close=person.role in RESEARCHERS
    )


@router.get("/api/arenas", tags=["arena"], summary="All arenas")
@allow(REVIEWERS)
def list_arenas(store: Db, home: Home) -> list[ArenaOut]:
    """The newest first."""
    with store.read() as session:
        return [_out(home, session, batch) for batch in arena.arenas(session)]


@router.post("/api/arenas", tags=["arena"], summary="Compare two models", status_code=201)
@allow(RESEARCHERS)
def make_arena(store: Db, home: Home, person: Person, new: ArenaIn) -> ArenaOut:
    """Both models answer in the background; labelers are asked as soon as both have."""
    plan = arena.Plan(
        name=new.name,
        model_ids=(new.first_model_id, new.second_model_id),
        overlap=new.overlap,
        max_new_tokens=new.max_new_tokens,
        temperature=new.temperature,
    )
    with store.write() as session:
        user = session.get_one(User, person.id)
        batch = arena.create(session, plan, by=user)
        prompts, notes = arena_jobs.prompts_for(session, new.num_prompts, kept=new.kept)
        batch.settings = batch.settings | {"notes": list(notes)}
        first, _ = arena.models_of(session, batch)
        jobs.enqueue(session, home, arena_jobs.drawing(home, batch, first, prompts, None), by=user)
        people.record(session, user.id, "made an arena", name=batch.name)
        return _out(home, session, batch)


@router.get("/api/arenas/{arena_id}", tags=["arena"], summary="One arena")
@allow(REVIEWERS)
def get_arena(store: Db, home: Home, arena_id: str) -> ArenaOut:
    """Its progress, and its result once it is closed."""
    with store.read() as session:
        return _out(home, session, arena.arena_of(session, arena_id))


@router.post("/api/arenas/{arena_id}/close", tags=["arena"], summary="Close an arena and show the names")
@allow(RESEARCHERS)
def close_arena(store: Db, home: Home, person: Person, arena_id: str) -> ArenaOut:
    """For good: what is said later does not count."""
    with store.write() as session:
        batch = arena.arena_of(session, arena_id)
        arena.close(session, batch)
        people.record(session, person.id, "closed an arena", name=batch.name)
        return _out(home, session, batch)


def _out(home: Workspace, session: Session, batch: Batch) -> ArenaOut:
    closed = arena.closed_at(batch) is not None
    return _line(home, session, batch).model_copy(
        update={
            "models": tuple(model.name for model in arena.models_of(session, batch)) if closed else None,
            "result": _result(arena.result(session, batch)) if closed else None,
        }
    )


def _line(home: Workspace, session: Session, batch: Batch) -> ArenaOut:
    """Without result and names."""
    at = arena.progress(session, batch)
    state = "closed" if arena.closed_at(batch) is not None else batch.state if at.pairs else "drawing"
    return ArenaOut.model_validate(
        {
            "id": batch.id,
            "name": batch.name,
            "state": state,
            "created_at": batch.created_at,
            "closed_at": arena.closed_at(batch),
            "notes": batch.settings.get("notes", []),
            "pairs": at.pairs,
            "votes": at.votes,
            "wanted": at.wanted,
            "labelers": at.labelers,
            "left_out": at.left_out,
            "alike": at.alike,
            "drawing": _drawing(home, session, batch) if state == "drawing" else None,
            "models": None,
            "result": None,
        }
    )


def _drawing(home: Workspace, session: Session, batch: Batch) -> DrawingOut | None:
    """The job that draws its answers now."""
    recent = session.scalars(select(Job).where(Job.stage == "sample").order_by(Job.created_at.desc()))
    job = next((job for job in recent if job.then.get("do") == "arena" and job.then["batch_id"] == batch.id), None)
    if job is None:
        return None
    at = progress_of(jobs.directory_of(home, job))
    which = "second" if job.then["first"] else "first"
    message = job.message or f"the {which} model is answering"
    return DrawingOut(state=job.state, message=message, step=at.step, total=at.total)


def _result(tally: Tally) -> ResultOut | None:
    win = tally.win
    if win is None:
        return None
    return ResultOut(
        rate=EstimateOut(value=win.rate, low=win.low, high=win.high),
        wins=win.wins,
        ties=win.ties,
        losses=win.losses,
        num_prompts=win.num_prompts,
        left=_estimate(tally.left),
        at_equal_length=None if tally.at_equal_length is None else _estimate(tally.at_equal_length),
        words=tally.words,
        labelers=[_labeler(each) for each in tally.labelers],
    )


def _labeler(tally: LabelerTally) -> LabelerOut:
    return LabelerOut(
        name=tally.name,
        wins=tally.wins,
        ties=tally.ties,
        losses=tally.losses,
        rate=_estimate(tally.rate),
        left=_estimate(tally.left),
    )


def _estimate(estimate: Estimate) -> EstimateOut:
    return EstimateOut(value=estimate.value, low=estimate.low, high=estimate.high)


def _pictures(shown: ArenaOut) -> list[Markup]:
    assert shown.result is not None
    assert shown.models is not None
    first, result = shown.models[0], shown.result
    entries = [_bar("wins", result.rate, 1)]
    if result.at_equal_length:
        entries.append(_bar("at equal length", result.at_equal_length, 1))
    entries.append(_bar("left preferred", result.left, 3))
    settings: dict[str, Any] = {
        "low": 0.0,
        "high": 1.0,
        "reference": 0.5,
        "format": charts.percent,
        "within": charts.SHARE,
    }
    pictures = [charts.bars(f"How often {first} wins, and how often the left answer does", entries, **settings)]
    if len(result.labelers) > 1:
        by_labeler = [_bar(each.name, each.rate, 2) for each in result.labelers]
        pictures.append(charts.bars(f"How often {first} wins, by labeler", by_labeler, **settings))
    return pictures


def _bar(label: str, estimate: EstimateOut, colour: int) -> Bar:
    return Bar(label=label, value=estimate.value, low=estimate.low, high=estimate.high, colour=colour)
