"""Runs of several stages, or of none that the app knows: rounds by a constitution, and an agent in an environment.

It is `palate rounds` and `palate agent` as jobs. What rounds end with is a model like any other; an agent is none, and
its report is all that stays. Rounds in which people judge are the app's own, and have a page of their own.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Any

import tomli_w
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from palate.errors import ConflictError
from palate.feedback.export import datasets
from palate.feedback.export.datasets import Collected
from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import User
from palate.studio.training import jobs, plans, recipebook
from palate.studio.training.recipebook import AgentRuns, Plan
from palate.studio.training.runs import RunOut, reward_models, run_out
from palate.studio.web.access import ADMINS, Db, Home, Person, allow
from palate.studio.web.rendering import page
from palate.studio.web.workspace import Workspace

router = APIRouter()

MOST_SEEDS = 10


class RoundsIn(BaseModel):
    """Rounds: from which model, who judges in each, and by which reward model it is measured."""

    model_config = ConfigDict(extra="forbid")

    recipe: Annotated[str, Field(min_length=1, max_length=100)]
    model_id: str
    judge_id: str
    reward_id: str
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0


class AgentIn(BaseModel):
    """An agent: how many seeds; alone it is run without its controls."""

    model_config = ConfigDict(extra="forbid")

    recipe: Annotated[str, Field(min_length=1, max_length=100)]
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 1
    alone: bool = False


@router.get("/runs/rounds", include_in_schema=False)
@allow(ADMINS)
def rounds_page(request: Request, store: Db, home: Home, recipe: str = "rounds") -> HTMLResponse:
    """Who judges, and by what it is measured."""
    chosen = recipebook.named(home.recipes, recipe)
    with store.write() as session:
        start = rounds.current_or_first(session, home.settings.model).policy_id
    with store.read() as session:
        fresh, held_out = (datasets.collect(session, kind) for kind in ("prompts", "evaluation prompts"))
        models, rewards = policies.policies(session), reward_models(session)
    problem = _too_few(fresh, held_out)
    problem = problem or ("" if rewards else "there is no reward model yet, by which it would be measured")
    return page(
        request,
        "training/runs_rounds.html",
        recipe=chosen,
        problem=problem,
        fresh=len(fresh.records),
        held_out=len(held_out.records),
        notes=fresh.notes,
        models=[(model.id, model.name) for model in models],
        rewards=[(model.id, model.name) for model in rewards],
        start=start,
    )


@router.get("/runs/agent", include_in_schema=False)
@allow(ADMINS)
def agent_page(request: Request, home: Home, recipe: str = "agent") -> HTMLResponse:
    """How many seeds, and whether the controls are run beside it."""
    return page(
        request, "training/runs_agent.html", recipe=recipebook.named(home.recipes, recipe), most_seeds=MOST_SEEDS
    )


@router.post("/api/runs/rounds", tags=["runs"], summary="Start rounds in which a model judges", status_code=201)
@allow(ADMINS)
def start_rounds(store: Db, home: Home, person: Person, new: RoundsIn) -> RunOut:
    """It waits until nothing else runs."""
    plan = plan_rounds(home, new)
    with store.write() as session:
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


@router.post("/api/runs/agent", tags=["runs"], summary="Start an agent in an environment", status_code=201)
@allow(ADMINS)
def start_agent(store: Db, home: Home, person: Person, new: AgentIn) -> RunOut:
    """It waits until nothing else runs."""
    recipe = recipebook.named(home.recipes, new.recipe)
    whole = AgentRuns(seeds=new.seeds, alone=new.alone, agent=tomllib.loads(recipebook.fill(recipe, {})))
    text = tomli_w.dumps(whole.model_dump())
    with store.write() as session:
        plan = Plan(name=recipe.name.replace("_", " "), command="agent", recipe=text, then={"do": "told"})
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


def plan_rounds(home: Workspace, new: RoundsIn) -> Plan:
    """Prompts and models filled in.

    Raises:
        ConflictError: people judge in it, for whom a job cannot wait; or there are too few prompts.
    """
    recipe = recipebook.named(home.recipes, new.recipe)
    if recipebook.tree_of(recipe).get("labelers") == "people":
        raise ConflictError("people judge in rounds of their own here: see Rounds; set labelers in the recipe")
    with home.store.read() as session:
        fresh, held_out = (datasets.collect(session, kind) for kind in ("prompts", "evaluation prompts"))
        model = plans.model_of(session, new.model_id, "policy")
        judge = plans.model_of(session, new.judge_id, "policy")
        reward = plans.model_of(session, new.reward_id, "reward")
    if problem := _too_few(fresh, held_out):
        raise ConflictError(problem)
    values: dict[str, Any] = {"model": model.path, "seed": new.seed, "evaluation": {"judge": {"model": reward.path}}}
    values |= {"prompts": {"path": datasets.write(home.directory, fresh).path}}
    values |= {"held_out": {"path": datasets.write(home.directory, held_out).path}}
    asked = recipebook.tree_of(recipe).get("judge")
    if asked is not None and not recipebook.asks_elsewhere(asked):
        values["judge"] = {"model": judge.path, **plans.chat_templates(home, {"model": judge.path})}
    values |= plans.chat_templates(home, {"model": model.path})
    return Plan(
        name=recipe.name.replace("_", " "),
        command="rounds",
        recipe=recipebook.fill(recipe, values),
        then={"do": "rounds", "parent_id": model.id},
    )


def _too_few(fresh: Collected, held_out: Collected) -> str:
    """Why there are not prompts enough; what is measured on may train nothing here."""
    if not fresh.records:
        return "there are no prompts yet"
    apart = fresh.records != held_out.records
    return "" if apart else f"of {len(fresh.records)} prompts none are kept to measure on: bring more"
