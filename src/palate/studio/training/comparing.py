"""Comparing methods: an admin ticks runs that have ended well, and their recipes are run again with several seeds.

It is `palate compare` as a job: its page is that of a run, and its report is drawn anew after every seed. A run's own
model is not looked at again; what is compared is the recipe that made it, data and models filled in as they were.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.commands import STAGES
from palate.errors import ConflictError, NotFoundError
from palate.experiments.methods import Method, evaluation_of, unlike
from palate.feedback.export import datasets
from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import Job, User
from palate.studio.training import jobs, plans, recipebook
from palate.studio.training.recipebook import ComparisonRecipe, Plan
from palate.studio.training.runs import RunOut, reward_models, run_out
from palate.studio.web.access import ADMINS, Db, Home, Person, allow
from palate.studio.web.rendering import page
from palate.studio.web.workspace import Workspace

router = APIRouter()

MOST_SEEDS = 10
MOST_RUNS = 12

DIFFERENCES = {
    "model": "the model they start from",
    "prompts": "the prompts they answer",
    "rewards": "the reward they learn from",
    "temperature": "the temperature they draw at",
}
"""What makes a difference that is not the methods', unless somebody wants to know just that."""


class ComparisonIn(BaseModel):
    """Finished runs, by what all are measured, and how often each is run."""

    model_config = ConfigDict(extra="forbid")

    run_ids: Annotated[tuple[str, ...], Field(max_length=MOST_RUNS)]
    judge_id: str
    baseline_id: str
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 3
    allow_different: tuple[Literal["model", "prompts", "rewards", "temperature"], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Runs that somebody wants to see compared.

    Attributes:
        run_ids: those whose recipes are run again.
        judge_id: a reward model.
        baseline_id: what win rates are against.
        allow_different: in what the recipes may differ although it confounds.
    """

    run_ids: tuple[str, ...]
    judge_id: str
    baseline_id: str
    seeds: int = 3
    allow_different: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A run that can be compared, as the form shows it.

    Attributes:
        start: the model it started from.
        rewards: what it learned from, of models.
        seconds: that it took.
    """

    job: Job
    start: str
    rewards: Sequence[str]
    seconds: float | None


@router.get("/runs/compare", include_in_schema=False)
@allow(ADMINS)
def new_comparison_page(request: Request, store: Db, home: Home) -> HTMLResponse:
    """Tick runs, and say by what they are measured."""
    with store.write() as session:
        baseline = rounds.current_or_first(session, home.settings.model).policy_id
    with store.read() as session:
        models, judges = policies.policies(session), reward_models(session)
        names = {model.path: model.name for model in (*models, *judges)}
        contenders = [_contender(job, names) for job in comparable(session)]
    return page(
        request,
        "training/comparison_new.html",
        contenders=contenders,
        models=[(model.id, model.name) for model in models],
        judges=[(model.id, model.name) for model in judges],
        baseline_id=baseline,
        learned_from={name for each in contenders for name in each.rewards},
        differences=DIFFERENCES,
        most_seeds=MOST_SEEDS,
    )


@router.post("/api/comparisons", tags=["runs"], summary="Compare the recipes of finished runs", status_code=201)
@allow(ADMINS)
def start_comparison(store: Db, home: Home, person: Person, new: ComparisonIn) -> RunOut:
    """Each is run with seeds 0, 1 and so on; it waits until nothing else runs."""
    plan = plan_comparison(home, Contest(**new.model_dump()))
    with store.write() as session:
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


def _contender(job: Job, names: dict[str, str]) -> Contender:
    """A run with its models by the names that they have here."""
    tree = tomllib.loads(job.recipe)
    terms = tree.get("rewards", [])
    paths = [path for term in terms for path in (term.get("model"), *term.get("ensemble", ())) if path]
    took = None if job.started_at is None or job.ended_at is None else job.ended_at - job.started_at
    start = str(tree.get("model", ""))
    return Contender(
        job=job, start=names.get(start, start), rewards=[names.get(path, path) for path in paths], seconds=took
    )


def plan_comparison(workspace: Workspace, contest: Contest) -> Plan:
    """A job that runs finished runs' recipes with several seeds, each from its beginning, and compares them.

    All are measured as the workspace's recipe for win rates says, on the prompts kept for evaluation.

    Raises:
        ConflictError: a run that cannot be compared, recipes that differ in more than was allowed, or no prompts.
        NotFoundError: no such run or model, or no recipe for win rates.
    """
    if not contest.run_ids:
        raise ConflictError("tick the runs that are to be compared")
    recipe = recipebook.first_of(workspace.recipes, "eval")
    with workspace.store.read() as session:
        collected = datasets.collect(session, "evaluation prompts")
        judge = plans.model_of(session, contest.judge_id, "reward").path
        baseline = plans.model_of(session, contest.baseline_id, "policy").path
        methods = [_method(session, run_id) for run_id in dict.fromkeys(contest.run_ids)]
    with workspace.store.write() as session:
        number = rounds.current_or_first(session, workspace.settings.model).number
    prompts = datasets.write(workspace.directory, collected).path
    values: dict[str, Any] = {"model": baseline, "baseline": baseline, "judge": {"model": judge}}
    values |= {"prompts": {"path": prompts}} | plans.chat_templates(workspace, values)
    tree = tomllib.loads(recipebook.fill(recipe, values))
    evaluation = evaluation_of(tree, where=f"{recipe.name}.toml")
    for what, why in unlike(methods, evaluation).items():
        if what not in contest.allow_different:
            raise ConflictError(f"{why}: choose others, or say below that they may differ in it")
    whole = ComparisonRecipe(
        seeds=contest.seeds,
        allow_different=contest.allow_different,
        evaluation=tree,
        methods={method.name: dict(method.tree) for method in methods},
    )
    return Plan(
        name="compare",
        command="compare",
        recipe=tomli_w.dumps(whole.model_dump(mode="json")),
        then={"do": "compared"},
        round_number=number,
    )


def comparable(session: Session) -> list[Job]:
    """Runs that made a model which answers, the newest first."""
    commands = [stage.name for stage in STAGES if stage.makes_policy]
    made = select(Job).where(Job.state == "done", Job.stage.in_(commands))
    return list(session.scalars(made.order_by(Job.created_at.desc(), Job.id)))


def _method(session: Session, run_id: str) -> Method:
    """The recipe of a run, under the name of its directory."""
    job = session.get(Job, run_id)
    if job is None:
        raise NotFoundError("no such run")
    stage = next((each for each in STAGES if each.name == job.stage and each.makes_policy), None)
    if stage is None or job.state != "done":
        raise ConflictError(f"{job.name} has made no model that answers: choose runs that have")
    name = Path(job.directory).name
    return Method(name=name, stage=stage, tree=tomllib.loads(job.recipe), source=f"the recipe of {job.name}")
