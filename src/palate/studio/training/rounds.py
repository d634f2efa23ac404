"""Rounds on one page: from a policy through sampled answers, judgements and runs to the next policy, and how it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from palate.feedback.export.datasets import Dataset
from palate.feedback.store import policies, rounds
from palate.feedback.store.rounds import RoundView
from palate.feedback.store.tables import Job, Model
from palate.feedback.tasks import arena
from palate.studio.training import choosing, jobs, plans, progress
from palate.studio.training.runs import BADGES, RunOut, run_out
from palate.studio.web import charts
from palate.studio.web.access import ADMINS, RESEARCHERS, Db, Home, allow
from palate.studio.web.charts import Bar, percent
from palate.studio.web.rendering import page
from palate.studio.web.workspace import Workspace

router = APIRouter()

NOT_TRAINED = ("sample", "score", "eval", "compare", "judge", "revise")
"""Commands that make no model and choose among no answers."""


class RoundIn(BaseModel):
    """The next round and the model it starts from."""

    model_config = ConfigDict(extra="forbid")

    model_id: str
    name: Annotated[str, Field(max_length=80)] = ""


class PolicyIn(BaseModel):
    """A model by the id it has here, a name of ours, a directory, or owner/name on the Hugging Face hub."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]+$")]


class ModelOut(BaseModel):
    """A model that answers ("policy") or judges ("reward")."""

    id: str
    name: str
    kind: str
    round_number: int | None
    parent_id: str | None
    created_at: float


class RoundOut(BaseModel):
    """A round and what belongs to it."""

    number: int
    name: str
    policy: ModelOut | None
    created_at: float
    closed_at: float | None
    batches: list[str]
    judgements: int
    runs: list[RunOut]
    models: list[ModelOut]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """A job of a round with what went in and what came out."""

    job: Job
    run: RunOut
    dataset: Dataset | None
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A round as its page tells it."""

    view: RoundView
    lines: Sequence[RunLine]
    win_rates: Sequence[Markup]

    @property
    def sampled(self) -> list[RunLine]:
        """Jobs that let a model answer."""
        return [line for line in self.lines if line.job.stage == "sample"]

    @property
    def trained(self) -> list[RunLine]:
        """Jobs that made a model, or chose among answers."""
        return [line for line in self.lines if line.job.stage not in NOT_TRAINED]

    @property
    def compared(self) -> list[RunLine]:
        """Jobs that ran several recipes with several seeds."""
        return [line for line in self.lines if line.job.stage == "compare"]

    @property
    def policies(self) -> list[Model]:
        """Models of this round that can answer."""
        return [model for model in self.view.models if model.kind == "policy"]


@router.get("/rounds", include_in_schema=False)
@allow(RESEARCHERS)
def rounds_page(request: Request, store: Db, home: Home) -> HTMLResponse:
    """All rounds, the newest first."""
    with store.read() as session:
        chapters = [_chapter(session, home, view) for view in rounds.lineage(session)]
        models = policies.policies(session)
    return page(request, "training/rounds.html", chapters=chapters, models=models, badges=BADGES)


@router.get("/api/rounds", tags=["rounds"], summary="All rounds with what belongs to them, the newest first")
@allow(RESEARCHERS)
def list_rounds(store: Db, home: Home) -> list[RoundOut]:
    """From policy to policy."""
    with store.read() as session:
        return [_out(home, view) for view in rounds.lineage(session)]


@router.post("/api/rounds", tags=["rounds"], summary="Start the next round from a model", status_code=201)
@allow(ADMINS)
def begin_round(store: Db, home: Home, new: RoundIn) -> RoundOut:
    """The one before is closed."""
    with store.write() as session:
        rounds.begin(session, plans.model_of(session, new.model_id, "policy"), name=new.name.strip())
        return _out(home, rounds.lineage(session)[0])


@router.post("/api/rounds/policy", tags=["rounds"], summary="Choose the model that the current round starts from")
@allow(ADMINS)
def choose_policy(store: Db, home: Home, chosen: PolicyIn) -> ModelOut:
    """Possible until something was sampled or trained in it."""
    with store.write() as session:
        model = session.get(Model, chosen.model)
        if model is None:
            model = policies.base_policy(session, choosing.check(home.directory, chosen.model.strip()))
        before = rounds.current(session)
        if before is None:
            rounds.begin(session, model)
        elif before.policy_id != model.id:
            rounds.change_policy(session, before.number, model)
        return _model(model)


@router.get("/api/models", tags=["rounds"], summary="All models that answer")
@allow(RESEARCHERS)
def list_models(store: Db) -> list[ModelOut]:
    """The newest first."""
    with store.read() as session:
        return [_model(model) for model in policies.policies(session)]


def _chapter(session: Session, home: Workspace, view: RoundView) -> Chapter:
    lines = [
        RunLine(
            job=job,
            run=run_out(home, job),
            dataset=plans.dataset_of(home, job),
            figures=progress.read_object(jobs.directory_of(home, job) / "report.json"),
        )
        for job in view.jobs
    ]
    return Chapter(view=view, lines=lines, win_rates=[*_by_people(session, view), *_by_reward(session, lines)])


def _by_people(session: Session, view: RoundView) -> list[Markup]:
    """How often people preferred a model of this round to another one, in arenas that are closed."""
    ours, entries = {model.id for model in view.models}, []
    for batch in arena.arenas(session):
        first, second = arena.models_of(session, batch)
        if arena.closed_at(batch) is None or not ours & {first.id, second.id}:
            continue
        win = arena.result(session, batch).win
        if win is not None and first.id in ours:
            entries.append(_bar(first.name, second.name, win.rate, win.low, win.high))
        elif win is not None:
            low, high = (None if bound is None else 1 - bound for bound in (win.high, win.low))
            entries.append(_bar(second.name, first.name, 1 - win.rate, low, high))
    return _chart("Preferred by people", entries)


def _by_reward(session: Session, lines: Sequence[RunLine]) -> list[Markup]:
    """The same as the reward model judges."""
    measured = [line for line in lines if line.job.stage == "eval" and "win_rate" in line.figures]
    entries = [
        _bar(
            _name(session, line.job.then.get("model_id")),
            _name(session, line.job.then.get("baseline_id")),
            line.figures["win_rate"],
            line.figures.get("win_rate_low"),
            line.figures.get("win_rate_high"),
        )
        for line in measured
    ]
    return _chart("Preferred by the reward model", entries)


def _bar(model: str, baseline: str, rate: float, low: float | None, high: float | None) -> Bar:
    return Bar(label=model, value=rate, low=low, high=high, note=f"against {baseline}")


def _chart(title: str, entries: Sequence[Bar]) -> list[Markup]:
    others = sorted({bar.note for bar in entries})
    shown = f"{title} {', '.join(others)}"
    return (
        [charts.bars(shown, entries, high=1.0, reference=0.5, format=percent, within=charts.SHARE)] if entries else []
    )


def _name(session: Session, model_id: str | None) -> str:
    model = session.get(Model, model_id) if model_id else None
    return model.name if model else "?"


def _out(home: Workspace, view: RoundView) -> RoundOut:
    return RoundOut(
        number=view.round.number,
        name=view.round.name,
        policy=_model(view.policy) if view.policy else None,
        created_at=view.round.created_at,
        closed_at=view.round.closed_at,
        batches=[each.batch.id for each in view.batches],
        judgements=sum(each.done for each in view.batches),
        runs=[run_out(home, job) for job in view.jobs],
        models=[_model(model) for model in view.models],
    )


def _model(model: Model) -> ModelOut:
    return ModelOut(
        id=model.id,
        name=model.name,
        kind=model.kind,
        round_number=model.round_number,
        parent_id=model.parent_id,
        created_at=model.created_at,
    )
