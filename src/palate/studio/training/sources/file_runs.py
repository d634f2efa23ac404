"""A file and what is to be done with it: poor text left out, preferences mined, a new model made of it.

It is `palate data filter`, `palate data mine` and `palate pretrain` as jobs. The report of what was left out and why is
the run's; what is mined can be learned from where a reward model, DPO or supervised fine-tuning is started.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from palate.corpus.mined.miners import MINERS
from palate.feedback.store.tables import User
from palate.studio.training import jobs, recipebook
from palate.studio.training.recipebook import FileRecipe, Plan
from palate.studio.training.runs import RunOut, run_out
from palate.studio.web.access import ADMINS, Home, Person, allow
from palate.studio.web.rendering import page
from palate.studio.web.uploads import MOST_BYTES, Received, checked, form_of, received
from palate.studio.web.workspace import Workspace

router = APIRouter()

What = Literal["filter", "pretrain", "forum", "thumbs", "trees", "refusals", "hygiene"]
WHAT: dict[What, str] = {
    "filter": "text: leave out what is poor or said already",
    "pretrain": "text: make a new model of it",
    "forum": MINERS["forum"].about,
    "thumbs": MINERS["thumbs"].about,
    "trees": MINERS["trees"].about,
    "refusals": MINERS["refusals"].about,
    "hygiene": MINERS["hygiene"].about,
}
"""What can be done, in words. Abstention needs a model's samples, and is the command line's."""
HASHED = 1 << 20
"""Bytes read at a time."""


class FileIn(BaseModel):
    """What is to be done with a file.

    ``recipe`` is for a new model, and so is ``filtered``: poor text is left out first.
    """

    model_config = ConfigDict(extra="forbid")

    what: What
    recipe: Annotated[str, Field(max_length=100)] = "pretrain"
    filtered: bool = False
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0


@router.get("/runs/file", include_in_schema=False)
@allow(ADMINS)
def file_page(request: Request, home: Home, what: str = "filter", recipe: str = "pretrain") -> HTMLResponse:
    """Choose a file, and what is made of it."""
    chosen = recipebook.named(home.recipes, recipe) if what == "pretrain" else None
    return page(
        request,
        "training/runs_file.html",
        what=what,
        whats=WHAT,
        recipe=chosen,
        megabytes=home.settings.upload_megabytes,
    )


@router.post(
    "/api/runs/file",
    tags=["runs"],
    summary="Start a run on a file: filter its text, mine it, or make a new model of it",
    status_code=201,
    max_body_size=MOST_BYTES,
    openapi_extra=form_of(
        what={"type": "string", "enum": list(WHAT)},
        recipe={"type": "string", "description": "For a new model: one of the workspace's recipes for it."},
        filtered={"type": "boolean", "description": "For a new model: leave out poor text and duplicates first."},
        seed={"type": "integer"},
    ),
)
@allow(ADMINS)
async def start_on_file(request: Request, home: Home, person: Person) -> RunOut:
    """The file is kept in the workspace's data."""
    async with received(request, home) as got:
        return await run_in_threadpool(_start, home, person, got)


def _start(home: Workspace, person: User, got: Received) -> RunOut:
    new = checked(FileIn, got.fields)
    made = recipebook.named(home.recipes, new.recipe) if new.what == "pretrain" else None
    plan = plan_of(home, new, got, keep(home, got.path), made)
    with home.store.write() as session:
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


def plan_of(home: Workspace, new: FileIn, got: Received, path: str, recipe: recipebook.NamedRecipe | None) -> Plan:
    """The job; where text is filtered first, the one that makes a model of it comes after."""
    how = got.how.model_dump()
    if recipe is not None:
        data = {"path": path, **{name: how[name] for name in ("format", "fields", "tags", "ignore")}}
        then = {"do": "register", "kind": "policy", "parent_id": None}
        text = recipebook.fill(recipe, {"seed": new.seed, "data": data})
        made = Plan(name=recipe.name.replace("_", " "), command=recipe.command, recipe=text, then=then)
        if not new.filtered:
            return made
        after = {"name": made.name, "command": made.command, "recipe": made.recipe, "then": made.then}
        return _of_file("filter", "", path, how, {"do": "told", "after": after})
    if new.what == "filter":
        return _of_file("filter", "", path, how, {"do": "told"})
    return _of_file("mine", new.what, path, how, {"do": "told"})


def _of_file(
    command: Literal["filter", "mine"], kind: str, path: str, how: dict[str, Any], then: dict[str, Any]
) -> Plan:
    recipe = FileRecipe(stage=command, kind=kind, path=path, **how)
    return Plan(name=f"{command} {kind}".strip(), command=command, recipe=tomli_w.dumps(recipe.model_dump()), then=then)


def keep(home: Workspace, path: Path) -> str:
    """Its place in the workspace, named after what is in it, so that the same file is there once."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(HASHED):
            digest.update(part)
    kept = f"data/{digest.hexdigest()[:12]}-{path.name}"
    (home.directory / kept).parent.mkdir(exist_ok=True)
    if not (home.directory / kept).exists():
        coming = home.directory / f"{kept}.coming"
        shutil.copyfile(path, coming)
        coming.rename(home.directory / kept)
    return kept
