"""Comparing methods: an admin ticks runs that have ended well, and their recipes are run again with several seeds.

It is `palate compare` as a job: its page is that of a run, and its report is drawn anew after every seed. A run's own
model is not looked at again; what is compared is the recipe that made it, data and models filled in as they were.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import Job, User
from palate.studio.training import jobs, plans
from palate.studio.training.plans import Contest
from palate.studio.training.runs import RunOut, reward_models, run_out
from palate.studio.web.access import ADMINS, Db, Home, Person, allow
from palate.studio.web.rendering import page

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
        contenders = [_contender(job, names) for job in plans.comparable(session)]
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
    plan = plans.plan_comparison(home, Contest(**new.model_dump()))
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
