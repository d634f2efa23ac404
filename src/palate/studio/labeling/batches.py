"""Batches: made of sampled responses, of prompts to be answered by people, or of a file; watched, paused, reordered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store import people, policies, rounds
from palate.feedback.store.database import Store
from palate.feedback.store.rounds import BatchView
from palate.feedback.store.tables import Batch, Item, PromptRow, Task, User
from palate.feedback.tasks import batches as material
from palate.feedback.tasks import clip_batches, importing, proposing
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.judgements import FLAGS
from palate.records import Prompt
from palate.studio.labeling.clip_runs import runs_that_wait
from palate.studio.training import jobs, plans, recipebook
from palate.studio.training.runs import RunOut, run_out
from palate.studio.web.access import ADMINS, RESEARCHERS, Db, Home, Person, allow
from palate.studio.web.rendering import page
from palate.studio.web.workspace import Workspace

router = APIRouter()

PAGE = 50
Start = Annotated[int, Field(ge=0, le=10**9)]
KINDS = {
    "ranking": "Rank several answers",
    "pair": "Choose between two answers",
    "clips": "Compare two clips of an agent",
    "demonstration": "Write an answer",
    "arena": "Blind comparison of two models",
}


class BatchIn(BaseModel):
    """What every batch has; ``name`` is what labelers see. They rank; ``ratings`` and ``flags`` come besides."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: Annotated[str, Field(min_length=1, max_length=80)]
    kind: Literal["ranking", "pair", "demonstration"] = "ranking"
    overlap: Annotated[int, Field(ge=1, le=50)] = 1
    per_labeler: Annotated[int, Field(ge=1, le=100_000)] | None = None
    lease_minutes: Annotated[float, Field(ge=1, le=1440)] = 30.0
    ratings: bool = False
    flags: Annotated[list[str], Field(max_length=len(FLAGS))] = []


class SampledIn(BatchIn):
    """Prompts without answers, answered by a model. Without ``model_id`` it is the round's own model."""

    num_prompts: Annotated[int, Field(ge=1, le=10_000)]
    responses_per_prompt: Annotated[int, Field(ge=2, le=9)] = 4
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7
    max_new_tokens: Annotated[int, Field(ge=1, le=2048)] = 48
    model_id: str | None = None


class DemonstrationsIn(BatchIn):
    """Prompts that nobody was asked to answer yet."""

    kind: Literal["demonstration"] = "demonstration"
    num_prompts: Annotated[int, Field(ge=1, le=10_000)]


class StateIn(BaseModel):
    """What becomes of a batch; a closed one may be opened again."""

    state: Literal["open", "paused", "closed"]


class BatchOut(BaseModel):
    """A batch and how far it is: ``done`` of ``wanted`` judgements; ``covered`` items have at least one."""

    id: str
    name: str
    kind: str
    state: str
    overlap: int
    per_labeler: int | None
    is_screening: bool
    round_number: int | None
    created_at: float
    items: int
    done: int
    wanted: int
    covered: int


class ItemOut(BaseModel):
    """One item: its prompt's last turn, and how many people have done, skipped or are at work on it."""

    id: str
    prompt: str
    responses: int
    priority: float
    done: int
    in_hand: int
    skipped: int


@router.get("/batches", include_in_schema=False)
@allow(RESEARCHERS)
def batches_page(request: Request, store: Db) -> HTMLResponse:
    """All batches, the newest first."""
    with store.read() as session:
        views = _views(session)
    return page(request, "labeling/batches.html", views=views, kinds=KINDS, kind_of=clip_batches.kind_of)


@router.get("/batches/new", include_in_schema=False)
@allow(RESEARCHERS)
def new_page(
    request: Request, store: Db, home: Home, source: Literal["", "sampled", "people", "file", "clips"] = ""
) -> HTMLResponse:
    """Three ways to make a batch, and the form of one."""
    with store.read() as session:
        models, round_ = policies.policies(session), rounds.current(session)
        prompts = session.scalar(select(func.count()).where(clip_batches.language_only())) or 0
        unanswered, unasked = plans.count_unanswered(session), len(_unasked(session))
    return page(
        request,
        "labeling/batches_new.html",
        source=source,
        models=models,
        policy_id=round_.policy_id if round_ else None,
        prompts=prompts,
        unanswered=unanswered,
        unasked=unasked,
        flags=FLAGS,
        sampling=sampling_defaults(home),
        waiting=runs_that_wait(home) if source == "clips" else [],
        runs=home.runs,
        megabytes=home.settings.upload_megabytes,
    )


@router.get("/batches/{batch_id}", include_in_schema=False)
@allow(RESEARCHERS)
def batch_page(request: Request, store: Db, home: Home, batch_id: str, start: Start = 0) -> HTMLResponse:
    """One batch and its items."""
    with store.read() as session:
        batch = batch_of(session, batch_id)
        view = rounds.batch_view(session, batch)
        items = _items(session, batch, start)
        has_texts = clip_batches.kind_of(batch) not in ("demonstration", "clips")
        rewards = plans.newest_reward_models(session) if has_texts else []
        measured = plans.last_done(session, "coverage")
        ordered = session.scalar(select(func.max(Item.priority)).where(Item.batch_id == batch.id))
    return page(
        request,
        "labeling/batch.html",
        batch=batch,
        view=view,
        items=items,
        start=start,
        size=PAGE,
        rewards=rewards,
        ordered=ordered,
        measured=measured,
        members=plans.ensemble_size(home, rewards),
        kinds=KINDS,
        kind=clip_batches.kind_of(batch),
        flags=FLAGS,
    )


@router.get("/api/batches", tags=["batches"], summary="All batches, the newest first")
@allow(RESEARCHERS)
def list_batches(store: Db) -> list[BatchOut]:
    """With how far each is."""
    with store.read() as session:
        return [batch_out(view) for view in _views(session)]


@router.post("/api/batches/sampled", tags=["batches"], summary="Sample answers to be judged", status_code=201)
@allow(ADMINS)
def make_sampled(store: Db, home: Home, person: Person, new: SampledIn) -> RunOut:
    """A job: the batch is there when it has ended."""
    with store.read() as session:
        prompts = plans.unanswered(session, limit=new.num_prompts)
    if not prompts:
        raise ConflictError("every prompt has answers already: import more prompts first")
    return sampled(store, home, person, new, prompts)


def sampled(store: Store, home: Workspace, person: User, new: SampledIn, prompts: Sequence[Prompt]) -> RunOut:
    """Queue the job that lets a model answer prompts for a batch."""
    if new.kind == "demonstration" or (new.kind == "pair" and new.responses_per_prompt != 2):
        raise ConflictError("pairs are made of two answers, and demonstrations of none")
    with store.write() as session:
        round_ = rounds.current_or_first(session, home.settings.model)
        model = plans.model_of(session, new.model_id or round_.policy_id or "", "policy")
    plan = plans.plan_sampling(
        home,
        model,
        prompts,
        settings={
            "responses_per_prompt": new.responses_per_prompt,
            "sampling": {"temperature": new.temperature, "max_new_tokens": new.max_new_tokens},
        },
        then={"batch": _plan_of(new)},
        round_number=round_.number,
    )
    with store.write() as session:
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


@router.post("/api/batches/demonstrations", tags=["batches"], summary="Ask people for answers", status_code=201)
@allow(RESEARCHERS)
def make_demonstrations(store: Db, person: Person, home: Home, new: DemonstrationsIn) -> BatchOut:
    """Of prompts that are in no such batch yet, the oldest first."""
    with store.write() as session:
        ids = _unasked(session)[: new.num_prompts]
        if not ids:
            raise ConflictError("people were asked about every prompt already: import more prompts first")
        batch = create(session, home, person, new)
        for prompt_id in ids:
            material.add_item(session, batch, prompt_id)
        return batch_out(rounds.batch_view(session, batch))


@router.get("/api/batches/{batch_id}", tags=["batches"], summary="One batch")
@allow(RESEARCHERS)
def get_batch(store: Db, batch_id: str) -> BatchOut:
    """With how far it is."""
    with store.read() as session:
        return batch_out(rounds.batch_view(session, batch_of(session, batch_id)))


@router.get("/api/batches/{batch_id}/items", tags=["batches"], summary="Items of a batch, in their order of priority")
@allow(RESEARCHERS)
def list_items(store: Db, batch_id: str, start: Start = 0) -> list[ItemOut]:
    """Fifty from ``start`` on."""
    with store.read() as session:
        return _items(session, batch_of(session, batch_id), start)


@router.post("/api/batches/{batch_id}/state", tags=["batches"], summary="Pause, close or open a batch")
@allow(RESEARCHERS)
def change_state(store: Db, person: Person, batch_id: str, change: StateIn) -> BatchOut:
    """Of a batch that is not open nothing is handed out; what somebody has in hand may still be handed in."""
    with store.write() as session:
        batch = batch_of(session, batch_id)
        if batch.kind == "arena":
            raise ConflictError("an arena is opened and closed on its own page")
        batch.state = change.state
        people.record(session, person.id, f"{change.state} a batch", name=batch.name)
        return batch_out(rounds.batch_view(session, batch))


@router.post(
    "/api/batches/{batch_id}/order",
    tags=["batches"],
    summary="Put first what the reward model is least sure of",
    status_code=201,
)
@allow(ADMINS)
def order_by_doubt(store: Db, home: Home, person: Person, batch_id: str) -> RunOut:
    """A job that scores what nobody has judged; with several reward models, where they contradict each other."""
    with store.read() as session:
        batch = batch_of(session, batch_id)
        if clip_batches.run_of(batch) is not None:
            raise ConflictError("a reward model of texts knows nothing of clips")
        rewards = plans.newest_reward_models(session)
        candidates = [each for _, each in proposing.unlabelled(session, batch)]
    if not rewards:
        raise ConflictError("there is no reward model yet: train one first")
    if not candidates:
        raise ConflictError("every item of this batch is judged, or being judged")
    then = {"do": "priorities", "batch_id": batch.id}
    name = f"order {batch.name}"
    plan = plans.plan_scoring(home, candidates, rewards, name=name, then=then, round_number=batch.round_number)
    with store.write() as session:
        job = jobs.enqueue(session, home, plan, by=session.get_one(User, person.id))
    return run_out(home, job)


@router.post(
    "/api/batches/{batch_id}/order/made", tags=["batches"], summary="Back to the order in which the batch was made"
)
@allow(ADMINS)
def order_as_made(store: Db, person: Person, batch_id: str) -> BatchOut:
    """Of what nobody has judged; what the reward model was unsure about counts no more."""
    with store.write() as session:
        batch = batch_of(session, batch_id)
        if clip_batches.run_of(batch) is not None:
            raise ConflictError("clips are shown as the agent asks for them")
        proposing.as_made(session, batch)
        people.record(session, person.id, "put a batch into the order in which it was made", name=batch.name)
        return batch_out(rounds.batch_view(session, batch))


def batch_of(session: Session, batch_id: str) -> Batch:
    """A batch.

    Raises:
        NotFoundError: there is none with that id.
    """
    batch = session.get(Batch, batch_id)
    if batch is None:
        raise NotFoundError("no such batch")
    return batch


def sampling_defaults(home: Workspace) -> Mapping[str, Any]:
    """What the workspace's recipe for sampling says, or else what we do."""
    found = (recipe for recipe in recipebook.listing(home.recipes) if recipe.command == "sample")
    tree = next(map(recipebook.tree_of, found), {})
    fallback = SampledIn(name="x", num_prompts=1)
    drawn = tree.get("sampling", {})
    return {
        "responses_per_prompt": tree.get("responses_per_prompt", fallback.responses_per_prompt),
        "temperature": drawn.get("temperature", fallback.temperature),
        "max_new_tokens": drawn.get("max_new_tokens", fallback.max_new_tokens),
    }


def create(session: Session, home: Workspace, person: User, new: BatchIn, *, threshold: float | None = None) -> Batch:
    """A batch of the round under way; with a threshold it is a screening test."""
    round_ = rounds.current_or_first(session, home.settings.model)
    plan = BatchPlan(
        **_plan_of(new), is_screening=threshold is not None, threshold=threshold, round_number=round_.number
    )
    return material.create_batch(session, plan, by=session.get_one(User, person.id))


def _plan_of(new: BatchIn) -> dict[str, Any]:
    """What a `BatchPlan` says of it."""
    unknown = set(new.flags) - FLAGS.keys()
    if unknown:
        raise ConflictError(f"no such flag: {', '.join(sorted(unknown))}")
    return {
        "name": new.name.strip(),
        "kind": new.kind,
        "overlap": new.overlap,
        "per_labeler": new.per_labeler,
        "lease_seconds": new.lease_minutes * 60,
        "settings": {} if new.kind == "demonstration" else {"ratings": new.ratings, "flags": new.flags},
    }


def _views(session: Session) -> list[BatchView]:
    found = session.scalars(select(Batch).order_by(Batch.created_at.desc(), Batch.id))
    return [rounds.batch_view(session, batch) for batch in found]


def _unasked(session: Session) -> list[str]:
    """Ids of prompts that are in no batch of demonstrations, the oldest first."""
    asked = select(Item.prompt_id).join(Batch, Batch.id == Item.batch_id).where(Batch.kind == "demonstration")
    rows = select(PromptRow.id).where(PromptRow.id.not_in(asked), clip_batches.language_only())
    return list(session.scalars(rows.order_by(PromptRow.created_at, PromptRow.id)))


def _items(session: Session, batch: Batch, start: int) -> list[ItemOut]:
    wanted = select(Item, PromptRow.record).join(PromptRow, PromptRow.id == Item.prompt_id)
    wanted = wanted.where(Item.batch_id == batch.id).order_by(Item.priority.desc(), Item.position)
    rows = session.execute(wanted.offset(start).limit(PAGE)).all()
    counts = _counts(session, [item.id for item, _ in rows])
    return [
        ItemOut(
            id=item.id,
            prompt=Prompt.model_validate(record).text,
            responses=len(item.response_ids),
            priority=item.priority,
            done=counts.get((item.id, "submitted"), 0),
            in_hand=counts.get((item.id, "leased"), 0),
            skipped=counts.get((item.id, "skipped"), 0),
        )
        for item, record in rows
    ]


def _counts(session: Session, ids: Sequence[str]) -> dict[tuple[str, str], int]:
    rows = session.execute(
        select(Task.item_id, Task.state, func.count())
        .where(Task.item_id.in_(ids), ~Task.is_surplus)
        .group_by(Task.item_id, Task.state)
    )
    return {(item_id, state): count for item_id, state, count in rows}


def batch_out(view: BatchView) -> BatchOut:
    """A batch as JSON."""
    batch = view.batch
    return BatchOut(
        id=batch.id,
        name=batch.name,
        kind=clip_batches.kind_of(batch),
        state=batch.state,
        overlap=batch.overlap,
        per_labeler=batch.per_labeler,
        is_screening=batch.is_screening,
        round_number=batch.round_number,
        created_at=batch.created_at,
        items=view.items,
        done=view.done,
        wanted=view.wanted,
        covered=view.covered,
    )


def reason_out(each: importing.Reason) -> dict[str, Any]:
    """A reason as JSON."""
    return {"reason": each.reason, "count": each.count, "lines": list(each.lines)}
