"""The first page: an empty workspace leads by the hand, from prompts to the first judgements."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from palate.errors import ConflictError
from palate.feedback.labelers import guidelines
from palate.feedback.store import policies, rounds
from palate.feedback.store.tables import Batch, Job, Judgement, Model, PromptRow, ResponseRow, User
from palate.feedback.tasks import clip_batches, importing, judgements
from palate.feedback.tasks.importing import Imported, Parsed
from palate.records import Prompt
from palate.studio.labeling.batches import reason_out, sampling_defaults
from palate.studio.training import choosing, plans
from palate.studio.training.runs import run_out
from palate.studio.web.access import RESEARCHERS, Db, Home, allow
from palate.studio.web.rendering import page
from palate.studio.web.uploads import MOST_BYTES, form_of, received
from palate.studio.web.workspace import Workspace

router = APIRouter()


class PromptsIn(BaseModel):
    """Prompts as text, one a line, or as records."""

    model_config = ConfigDict(extra="forbid")

    lines: Annotated[str, Field(max_length=1_000_000)] = ""
    prompts: Annotated[list[Prompt], Field(max_length=10_000)] = []


class ImportedOut(BaseModel):
    """How many prompts are new, how many were known, and rows that gave none, by reason with their first lines."""

    added: int
    known: int
    rejected: list[dict[str, Any]]


class CountsOut(BaseModel):
    """How far the workspace is."""

    prompts: int
    unanswered: int
    responses: int
    labelers: int
    batches: int
    judgements: int
    models: int
    reward_models: int


@router.get("/start", include_in_schema=False)
@allow(RESEARCHERS)
def start_page(request: Request, store: Db, home: Home) -> HTMLResponse:
    """What has been done, what is next, and the forms for it."""
    with store.read() as session:
        counts = _counts(session)
        round_ = rounds.current(session)
        policy = session.get(Model, round_.policy_id) if round_ and round_.policy_id else None
        sampling = session.scalars(
            select(Job).where(Job.stage == "sample").order_by(Job.created_at.desc()).limit(1)
        ).first()
        models, guideline = policies.policies(session), guidelines.latest(session)
        batches = session.scalars(select(Batch).where(Batch.state == "open", ~Batch.is_screening)).all()
    return page(
        request,
        "overview/start.html",
        counts=counts,
        policy=policy,
        default_model=home.settings.model,
        models=models,
        zoo=choosing.ZOO,
        guideline=guideline,
        sampling=run_out(home, sampling) if sampling else None,
        defaults=sampling_defaults(home),
        batches=batches,
        megabytes=home.settings.upload_megabytes,
    )


@router.get("/api/counts", tags=["prompts"], summary="How far the workspace is")
@allow(RESEARCHERS)
def get_counts(store: Db) -> CountsOut:
    """Counts of everything between prompts and models."""
    with store.read() as session:
        return _counts(session)


@router.post("/api/prompts", tags=["prompts"], summary="Add prompts")
@allow(RESEARCHERS)
def add_prompts(store: Db, new: PromptsIn) -> ImportedOut:
    """Those that are there already are counted and left as they are."""
    parsed = importing.parse_lines(new.lines)
    parsed.records += new.prompts
    if not parsed.records and not parsed.rejected:
        raise ConflictError("there is no prompt in it: write one on each line")
    return _imported(importing.add_prompts(store, parsed, source="entered by hand"))


@router.post(
    "/api/prompts/file",
    tags=["prompts"],
    summary="Add the prompts of a file in any format that Palate reads",
    max_body_size=MOST_BYTES,
    openapi_extra=form_of(),
)
@allow(RESEARCHERS)
async def upload_prompts(request: Request, home: Home) -> ImportedOut:
    """Rows that hold no prompt are counted, with their lines; they do not stop the others."""
    async with received(request, home) as got:
        parsed = await run_in_threadpool(partial(importing.parse_file, got.path, **got.how.model_dump()))
        return _imported(await run_in_threadpool(_add, home, parsed, got.path.name))


def _add(home: Workspace, parsed: Parsed, source: str) -> Imported:
    return importing.add_prompts(home.store, parsed, source=source)


def _imported(found: Imported) -> ImportedOut:
    return ImportedOut(added=found.added, known=found.known, rejected=[reason_out(each) for each in found.rejected])


def _counts(session: Session) -> CountsOut:
    def count(table: Any, *where: Any) -> int:
        return session.scalar(select(func.count()).select_from(table).where(*where)) or 0

    said = judgements.current().order_by(None).with_only_columns(Judgement.id).subquery()
    return CountsOut(
        prompts=count(PromptRow, clip_batches.language_only()),
        unanswered=plans.count_unanswered(session),
        responses=count(ResponseRow),
        labelers=count(User, User.role == "labeler"),
        batches=count(Batch, ~Batch.is_screening),
        judgements=count(said),
        models=count(Model, Model.kind == "policy"),
        reward_models=count(Model, Model.kind == "reward"),
    )
