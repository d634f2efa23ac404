"""Runs: what is trained, from which recipe, on what; how it goes; and stopping it. Only an admin may start one."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.errors import NotFoundError
from palate.evals.credit import CREDIT_CSS, credit_html, credit_of_steps
from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import Job, Model, User
from palate.studio.training import jobs, launch, outcomes, plans, progress, recipebook
from palate.studio.training.jobs import start, stop
from palate.studio.training.plans import Choice
from palate.studio.web.access import ADMINS, RESEARCHERS, Db, Home, Person, allow
from palate.studio.web.rendering import fragment, page
from palate.studio.web.workspace import Workspace

__all__ = ["RunOut", "router", "run_out", "start", "stop"]

router = APIRouter()

REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""A report brings its own styles; nothing in it may run, load or be framed."""

MOST_RUNS = 200
MOST_HEADS = 16

BADGES = {"queued": "", "running": "busy", "done": "good", "failed": "bad", "cancelled": "warn", jobs.WAITS: "warn"}


class RunIn(BaseModel):
    """A named recipe and what it is applied to."""

    model_config = ConfigDict(extra="forbid")

    recipe: Annotated[str, Field(min_length=1, max_length=100)]
    model_id: str
    reward_ids: Annotated[tuple[str, ...], Field(max_length=10)] = ()
    baseline_id: str | None = None
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    heads: Annotated[int, Field(ge=1, le=MOST_HEADS)] | None = None
    aggregation: Literal["mean", "min", "mean_minus_std"] = "mean"
    also_ids: Annotated[tuple[str, ...], Field(max_length=20)] = ()


class RunOut(BaseModel):
    """A job: ``step`` of ``total`` steps are done, of a comparison runs; ``total`` is unknown before it has begun.

    ``state`` is "queued", "running", "done", "failed", "cancelled", or "waits for people", who must compare something
    before it can be resumed.
    """

    id: str
    name: str
    command: str
    state: str
    message: str
    step: int
    total: int | None
    seconds: float | None
    round_number: int | None
    created_at: float


class RecipeOut(BaseModel):
    """A recipe of the workspace; with a problem it cannot be started."""

    name: str
    command: str
    about: str
    problem: str


class PreviewOut(BaseModel):
    """What a recipe would use now; ``problem`` says why it cannot start yet."""

    kind: str
    count: int
    people: int
    left_out: dict[str, int]
    notes: list[str]
    weights: dict[str, float]
    problem: str


@router.get("/runs", include_in_schema=False)
@allow(RESEARCHERS)
def runs_page(request: Request, store: Db, home: Home) -> HTMLResponse:
    """All jobs, the newest first."""
    with store.read() as session:
        runs = [run_out(home, job) for job in _jobs(session)]
    return page(request, "training/runs.html", runs=runs, badges=BADGES)


@router.get("/runs/live", include_in_schema=False)
@allow(RESEARCHERS)
def runs_live(store: Db, home: Home) -> dict[str, Any]:
    """The table of the page, for a script that keeps it fresh."""
    with store.read() as session:
        runs = [run_out(home, job) for job in _jobs(session)]
    busy = any(run.state in ("queued", "running") for run in runs)
    return {"html": fragment("training/runs_table.html", runs=runs, badges=BADGES), "busy": busy}


@router.get("/runs/new", include_in_schema=False)
@allow(ADMINS)
def new_page(request: Request, store: Db, home: Home, recipe: str | None = None) -> HTMLResponse:
    """Choose a recipe; then a model, with what it would learn from in view."""
    startable = plans.DATA.keys() | recipebook.PAGES.keys()
    known = [each for each in recipebook.listing(home.recipes) if each.problem or each.command in startable]
    if recipe is None:
        return page(request, "training/runs_new.html", recipes=known, pages=recipebook.PAGES)
    chosen = recipebook.named(home.recipes, recipe)
    if chosen.command not in plans.DATA:
        raise NotFoundError("answers are sampled for a batch: make one under Batches")
    with store.write() as session:
        round_ = rounds.current_or_first(session, home.settings.model)
    with store.read() as session:
        preview = plans.preview(home, session, chosen)
        models, rewards = policies.policies(session), reward_models(session)
        newest = plans.newest_reward_models(session)
        likely = plans.likely_model(session, chosen.command, round_)
    return page(
        request,
        "training/runs_start.html",
        recipe=chosen,
        preview=preview,
        models=models,
        rewards=rewards,
        newest={model.id for model in newest},
        policy_id=likely,
        baseline_id=round_.policy_id,
        rewarded=chosen.command in plans.REWARDED,
        must_have_reward=plans.needs_reward(chosen),
        heads=recipebook.tree_of(chosen).get("heads", 1),
        most_heads=MOST_HEADS,
        members=plans.ensemble_size(home, rewards),
    )


@router.get("/runs/credit.css", include_in_schema=False)
@allow(RESEARCHERS)
def credit_css() -> Response:
    """How credit looks, here as in reports."""
    return Response(CREDIT_CSS, media_type="text/css")


@router.get("/runs/{run_id}", include_in_schema=False)
@allow(RESEARCHERS)
def run_page(request: Request, store: Db, home: Home, run_id: str) -> HTMLResponse:
    """One run: its curves, samples and log as they come."""
    with store.read() as session:
        job = jobs.job_of(session, run_id)
        made = session.scalars(select(Model).where(Model.job_id == job.id)).first()
        by = session.get(User, job.created_by) if job.created_by else None
    shown = _shown(home, job)
    return page(request, "training/run.html", job=job, made=made, by=by, badges=BADGES, **shown)


@router.get("/runs/{run_id}/live", include_in_schema=False)
@allow(RESEARCHERS)
def run_live(store: Db, home: Home, run_id: str) -> dict[str, Any]:
    """The parts of its page that change."""
    with store.read() as session:
        job = jobs.job_of(session, run_id)
        made = session.scalars(select(Model).where(Model.job_id == job.id)).first()
    shown = _shown(home, job)
    parts = {
        part: fragment(f"training/run_{part}.html", job=job, made=made, badges=BADGES, **shown)
        for part in ("status", "curves", "samples", "credit", "log")
    }
    return {"state": job.state, "step": shown["run"].step, "html": parts}


@router.get("/runs/{run_id}/report", include_in_schema=False)
@allow(RESEARCHERS)
def report(store: Db, home: Home, run_id: str) -> HTMLResponse:
    """The run's own report, boxed in: it is a file from a run directory, not a page of ours."""
    with store.read() as session:
        job = jobs.job_of(session, run_id)
    path = jobs.directory_of(home, job) / "report.html"
    if not path.is_file():
        raise NotFoundError("this run has written no report yet")
    return HTMLResponse(path.read_text(encoding="utf-8"), headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/api/recipes", tags=["runs"], summary="Recipes that may be started by name")
@allow(RESEARCHERS)
def list_recipes(home: Home) -> list[RecipeOut]:
    """The workspace's own; those for sampling are used by batches."""
    return [
        RecipeOut(name=each.name, command=each.command, about=each.about, problem=each.problem)
        for each in recipebook.listing(home.recipes)
    ]


@router.get("/api/recipes/{name}/preview", tags=["runs"], summary="What a recipe would use now")
@allow(RESEARCHERS)
def preview_recipe(store: Db, home: Home, name: str) -> PreviewOut:
    """Counts of what it would learn from and of what is left out, by reason."""
    recipe = recipebook.named(home.recipes, name)
    if recipe.command not in plans.DATA:
        raise NotFoundError("answers are sampled for a batch")
    with store.read() as session:
        found = plans.preview(home, session, recipe)
    return PreviewOut(
        kind=found.kind,
        count=found.count,
        people=found.people,
        left_out=dict(found.left_out),
        notes=list(found.notes),
        weights=dict(found.weights),
        problem=found.problem,
    )


@router.get("/api/runs", tags=["runs"], summary="Runs, the newest first")
@allow(RESEARCHERS)
def list_runs(store: Db, home: Home) -> list[RunOut]:
    """Waiting, running and ended ones, two hundred at most."""
    with store.read() as session:
        return [run_out(home, job) for job in _jobs(session)]


@router.post("/api/runs", tags=["runs"], summary="Start a run from a named recipe", status_code=201)
@allow(ADMINS)
def start_run(store: Db, home: Home, person: Person, new: RunIn) -> RunOut:
    """It waits until nothing else runs."""
    plan = plans.plan(home, Choice(**new.model_dump()))
    with store.write() as session:
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


@router.get("/api/runs/{run_id}", tags=["runs"], summary="One run")
@allow(RESEARCHERS)
def get_run(store: Db, home: Home, run_id: str) -> RunOut:
    """How far it is."""
    with store.read() as session:
        return run_out(home, jobs.job_of(session, run_id))


@router.get("/api/runs/{run_id}/metrics", tags=["runs"], summary="Metrics of every step so far")
@allow(RESEARCHERS)
def get_metrics(store: Db, home: Home, run_id: str) -> list[dict[str, float]]:
    """One object a step, as the run has logged them."""
    with store.read() as session:
        job = jobs.job_of(session, run_id)
    return progress.read_rows(jobs.directory_of(home, job) / "metrics.jsonl")


@router.post("/api/runs/{run_id}/cancel", tags=["runs"], summary="Stop a run after its step; once more: at once")
@allow(ADMINS)
def cancel(store: Db, home: Home, person: Person, run_id: str) -> RunOut:
    """A checkpoint is written, from which it can be resumed."""
    with store.write() as session:
        job = jobs.job_of(session, run_id)
        jobs.cancel(session, home, job, by=person)
    return run_out(home, job)


@router.post("/api/runs/{run_id}/resume", tags=["runs"], summary="Go on with a run that stopped")
@allow(ADMINS)
def resume(store: Db, home: Home, person: Person, run_id: str) -> RunOut:
    """From its last checkpoint."""
    with store.write() as session:
        job = jobs.job_of(session, run_id)
        jobs.resume(session, home, job, by=person)
    return run_out(home, job)


def run_out(home: Workspace, job: Job) -> RunOut:
    """A job and how far its run is."""
    directory = jobs.directory_of(home, job)
    at = progress.progress_of_job(directory, job.stage, tomllib.loads(job.recipe))
    ended = job.ended_at or time.time()
    return RunOut(
        id=job.id,
        name=job.name,
        command=job.stage,
        state=jobs.state_of(home, job),
        message=job.message,
        step=at.step,
        total=at.total,
        seconds=None if job.started_at is None else max(ended - job.started_at, 0.0),
        round_number=job.round_number,
        created_at=job.created_at,
    )


def _shown(home: Workspace, job: Job) -> dict[str, Any]:
    """What the page of a run shows."""
    directory = jobs.directory_of(home, job)
    rows = progress.read_rows(directory / "metrics.jsonl")
    accuracy = progress.read_object(directory / outcomes.ACCURACY)
    samples = progress.read_samples(directory / "samples.jsonl")
    return {
        "run": run_out(home, job),
        "pictures": progress.pictures(rows),
        "accuracy": progress.accuracy_chart(accuracy) if accuracy else None,
        "samples": samples,
        "credit": _credit(samples),
        "log": progress.tail(directory / launch.LOG),
        "has_report": (directory / "report.html").is_file(),
        "dataset": plans.dataset_of(home, job),
    }


def _credit(samples: Sequence[tuple[int, progress.Rows]]) -> Markup:
    """The tokens of the latest responses with their numbers; earlier ones folded below."""
    steps = credit_of_steps(row for _, rows in samples for row in rows)[::-1]
    return Markup(credit_html(steps, opened=[steps[0][0]])) if steps else Markup()


def _jobs(session: Session) -> Sequence[Job]:
    return session.scalars(select(Job).order_by(Job.created_at.desc(), Job.id).limit(MOST_RUNS)).all()


def reward_models(session: Session) -> Sequence[Model]:
    """All of them, the newest first."""
    return session.scalars(select(Model).where(Model.kind == "reward").order_by(Model.created_at.desc())).all()
