"""Do the prompts lie inside what a reward model learned from? Where they do not, people can be asked first.

It is `palate coverage` as a job, on every prompt of the workspace that a model of language may answer, those kept for
evaluation too: the reward model judges the answers to all of them. What it found stands on a page, and from there a
model answers the furthest prompts for a batch; one that is there can be put into the order of its prompts' distance.

Left out: rankings that the reward model did not learn from (`--held-out`), which tell whether it errs more out there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import tomli_w
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.errors import ConflictError, NotFoundError
from palate.feedback.export import datasets
from palate.feedback.export.datasets import Collected
from palate.feedback.store import people, policies, rounds
from palate.feedback.store.tables import Batch, Item, Job, Model, PromptRow, User
from palate.feedback.tasks import clip_batches, proposing
from palate.records import Prompt
from palate.studio.labeling.batches import SampledIn, batch_of, sampled, sampling_defaults
from palate.studio.training import jobs, plans, progress
from palate.studio.training.recipebook import CoverageRecipe, Plan
from palate.studio.training.runs import BADGES, RunOut, reward_models, run_out
from palate.studio.web.access import ADMINS, RESEARCHERS, Db, Home, Person, allow
from palate.studio.web.rendering import page
from palate.studio.web.workspace import Workspace

router = APIRouter()

SHOWN = 20
MAP = "map.svg"
MAP_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""It is an image to the browser, with styles of its own; nothing in it can run or load."""


class CoverageIn(BaseModel):
    """Of which reward model it is asked."""

    model_config = ConfigDict(extra="forbid")

    reward_id: str
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0


class FurthestIn(SampledIn):
    """The furthest prompts that are in no batch yet, answered by a model; without ``model_id`` by the round's own."""


class MeasuredIn(BaseModel):
    """Which run has measured the distances."""

    model_config = ConfigDict(extra="forbid")

    run_id: str


class FarOut(BaseModel):
    """A prompt's last turn; ``distance`` is in edges of inside: beyond 1 it is outside."""

    prompt_id: str
    prompt: str
    distance: float
    in_batch: bool


class CoverageOut(BaseModel):
    """What a run has found: shares with their intervals, and the twenty furthest prompts.

    ``inside`` of the prompts, 0.95 of prompts of the same kind; ``reached`` of what was learned from, ``expected`` of
    prompts of the same kind. ``left`` prompts, ``left_outside`` of them outside, are in no batch yet.
    """

    run_id: str
    reward: str
    prompts: int
    inside: float
    inside_low: float | None
    inside_high: float | None
    reached: float
    reached_low: float | None
    reached_high: float | None
    expected: float
    left: int
    left_outside: int
    furthest: list[FarOut]


class OrderedOut(BaseModel):
    """How many items have their place by distance; ``unmeasured`` ones, of prompts that came later, are last."""

    ordered: int
    unmeasured: int


@router.get("/coverage", include_in_schema=False)
@allow(RESEARCHERS)
def coverage_page(request: Request, store: Db, home: Home, run: str = "") -> HTMLResponse:
    """The newest result, or that of a run; and how to ask again."""
    with store.read() as session:
        asked = session.scalars(select(Job).where(Job.stage == "coverage").order_by(Job.created_at.desc())).all()
        job = _job_of(session, run) if run else plans.last_done(session, "coverage")
        found = None if job is None else _found(session, home, job)
        rewards, models, round_ = reward_models(session), policies.policies(session), rounds.current(session)
    return page(
        request,
        "labeling/coverage.html",
        found=found,
        newest=run_out(home, asked[0]) if asked and asked[0].state != "done" else None,
        badges=BADGES,
        rewards=[(model.id, model.name) for model in rewards],
        models=models,
        policy_id=round_.policy_id if round_ else None,
        sampling=sampling_defaults(home),
    )


@router.get("/coverage/{run_id}/map.svg", include_in_schema=False)
@allow(RESEARCHERS)
def coverage_map(store: Db, home: Home, run_id: str) -> Response:
    """Where prompts lie among what was learned from."""
    with store.read() as session:
        file = jobs.directory_of(home, _job_of(session, run_id)) / MAP
    if not file.is_file():
        raise NotFoundError("this run has drawn no map yet")
    return Response(file.read_bytes(), media_type="image/svg+xml", headers={"Content-Security-Policy": MAP_POLICY})


@router.post(
    "/api/coverage",
    tags=["coverage"],
    summary="Ask whether the prompts lie inside what a reward model learned from",
    status_code=201,
)
@allow(ADMINS)
def measure(store: Db, home: Home, person: Person, new: CoverageIn) -> RunOut:
    """A job; it waits until nothing else runs."""
    with store.read() as session:
        reward = plans.model_of(session, new.reward_id, "reward")
        rows = select(PromptRow.record).where(clip_batches.language_only())
        records = session.scalars(rows.order_by(PromptRow.created_at, PromptRow.id)).all()
    if not (home.directory / reward.path / "recipe.toml").is_file():
        raise ConflictError(f"{reward.name} does not say what it learned from: its run is not here")
    if not records:
        raise ConflictError("there are no prompts yet: import some first")
    prompts = [Prompt.model_validate(record) for record in records]
    dataset = datasets.write(home.directory, Collected(kind="prompts", records=prompts, left_out={}))
    recipe = CoverageRecipe(reward=reward.path, prompts=dataset.path, seed=new.seed)
    then = {"do": "told", "reward_id": reward.id}
    plan = Plan(name="coverage", command="coverage", recipe=tomli_w.dumps(recipe.model_dump()), then=then)
    with store.write() as session:
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


@router.get("/api/coverage/{run_id}", tags=["coverage"], summary="What such a run has found")
@allow(RESEARCHERS)
def get_coverage(store: Db, home: Home, run_id: str) -> CoverageOut:
    """Once it has ended."""
    with store.read() as session:
        return _found(session, home, _job_of(session, run_id))


@router.post(
    "/api/coverage/{run_id}/batch", tags=["coverage"], summary="Sample answers to the furthest prompts", status_code=201
)
@allow(ADMINS)
def ask_about_furthest(store: Db, home: Home, person: Person, run_id: str, new: FurthestIn) -> RunOut:
    """A job: the batch is there when it has ended."""
    with store.read() as session:
        known = _in_batches(session)
        far = [each for each in _distances(home, _job_of(session, run_id)) if each not in known]
        prompts = _prompts(session, far[: new.num_prompts])
    if not prompts:
        raise ConflictError("people are asked about all of these prompts already: put a batch into their order instead")
    return sampled(store, home, person, new, prompts)


@router.post(
    "/api/batches/{batch_id}/order/distance",
    tags=["batches"],
    summary="Put first what is furthest from what the reward model learned from",
)
@allow(ADMINS)
def order_by_distance(store: Db, home: Home, person: Person, batch_id: str, measured: MeasuredIn) -> OrderedOut:
    """Of what nobody has judged, by the distances that a run has measured."""
    with store.write() as session:
        batch = batch_of(session, batch_id)
        distances = _distances(home, _job_of(session, measured.run_id))
        ordered, unmeasured = proposing.prioritise_prompts(session, batch, distances)
        if not ordered:
            raise ConflictError("no item that waits has a prompt whose distance was measured")
        people.record(session, person.id, "put a batch into the order of its prompts' distance", name=batch.name)
    return OrderedOut(ordered=ordered, unmeasured=unmeasured)


def _job_of(session: Session, run_id: str) -> Job:
    job = jobs.job_of(session, run_id)
    if job.stage != "coverage":
        raise NotFoundError("this run has measured no coverage")
    return job


def _figures(home: Workspace, job: Job) -> dict[str, Any]:
    figures = progress.read_object(jobs.directory_of(home, job) / "report.json")
    if job.state != "done" or not figures:
        raise NotFoundError("this run has measured nothing yet")
    return figures


def _distances(home: Workspace, job: Job) -> dict[str, float]:
    """Of every prompt by its id, in edges of inside; the furthest first."""
    figures = _figures(home, job)
    far = {key: each / figures["edge"] for key, each in zip(figures["prompts"], figures["distances"], strict=True)}
    return dict(sorted(far.items(), key=lambda pair: -pair[1]))


def _found(session: Session, home: Workspace, job: Job) -> CoverageOut:
    figures, distances, known = _figures(home, job), _distances(home, job), _in_batches(session)
    reward = session.get(Model, job.then["reward_id"])
    left = [key for key in distances if key not in known]
    shares = {
        f"{name}{end}": figures.get(f"{name}{end}") for name in ("inside", "reached") for end in ("", "_low", "_high")
    }
    return CoverageOut(
        run_id=job.id,
        reward=reward.name if reward else "?",
        prompts=len(distances),
        expected=figures["expected"],
        left=len(left),
        left_outside=sum(distances[key] > 1 for key in left),
        furthest=[
            FarOut(prompt_id=each.id, prompt=each.text, distance=distances[each.id], in_batch=each.id in known)
            for each in _prompts(session, list(distances)[:SHOWN])
        ],
        **shares,
    )


def _in_batches(session: Session) -> set[str]:
    """Ids of prompts whose answers people compare, or have compared."""
    rows = select(Item.prompt_id).join(Batch, Batch.id == Item.batch_id).where(Batch.kind != "demonstration")
    return set(session.scalars(rows))


def _prompts(session: Session, ids: Sequence[str]) -> list[Prompt]:
    """In the order of their ids."""
    rows = (session.get(PromptRow, each) for each in ids)
    return [Prompt.model_validate(row.record) for row in rows if row is not None]
