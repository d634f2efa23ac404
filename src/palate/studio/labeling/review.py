"""Review of disagreements: the most disputed items, side by side, and the reviewer's decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.feedback.labelers import reviewing
from palate.feedback.labelers.reviewing import Case, Decision, Disputed, Said
from palate.feedback.store.tables import Batch, User
from palate.feedback.tasks import clip_batches
from palate.feedback.tasks.judgements import FLAGS, RATINGS, STRENGTHS
from palate.records import Message
from palate.studio.labeling.tasks import PLACES
from palate.studio.web.access import REVIEWERS, Db, Person, allow
from palate.studio.web.figures import share
from palate.studio.web.rendering import go_to, page

router = APIRouter()

PAGE_SIZE = 40

Show = Literal["open", "decided", "all"]
DECISIONS = {"keep": "kept", "discard": "discarded", "settle": "settled"}
NUDGES = {
    "contradiction": "ranks contradict the ratings",
    "all_tied": "all in one rank",
    "as_shown": "in the order shown",
    "fast": "very fast",
}


class DisputedOut(BaseModel):
    """An item; ``disagreement`` is 0 where all say the same and 1 where any two say the opposite."""

    id: str
    prompt: str
    batch_id: str
    batch: str
    num_labelers: int
    disagreement: float
    decision: str | None
    is_own: bool


class DisputesOut(BaseModel):
    """A part of the list, and how long it is."""

    total: int
    items: list[DisputedOut]


class SaidOut(BaseModel):
    """What one labeler said, by place; ``name`` only where it was asked for."""

    labeler: str
    name: str | None
    ranks: list[int]
    ratings: list[float] | None
    flags: list[list[str]] | None
    strength: float | None
    comment: str
    seconds: float | None
    nudges: list[str]


class ReviewOut(BaseModel):
    """A decision; ``ranks`` by place, where it settled the item."""

    id: str
    decision: str
    note: str
    reviewer: str
    created_at: float
    ranks: list[int] | None


class CaseOut(BaseModel):
    """An item with what its labelers said; places are shuffled for the reviewer."""

    id: str
    batch: str
    prompt: list[Message]
    responses: list[str]
    are_clips: bool
    disagreement: float
    said: list[SaidOut]
    review: ReviewOut | None


class DecisionIn(BaseModel):
    """A decision; ``before`` is the id of the review that was seen, null if there was none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Decision
    note: Annotated[str, Field(max_length=2000)] = ""
    ranks: Annotated[list[Annotated[int, Field(ge=1, le=50)]], Field(max_length=50)] = []
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = None
    before: Annotated[str, Field(max_length=100)] | None = None


@router.get("/review", include_in_schema=False)
@allow(REVIEWERS)
def review_page(
    request: Request,
    store: Db,
    person: Person,
    batch: str = "",
    show: Show = "open",
    start: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> HTMLResponse:
    """What labelers disagree about."""
    with store.read() as session:
        found = _disputes(session, person, batch, show, start)
        kinds = Batch.kind.in_(reviewing.REVIEWED_KINDS)
        batches = session.scalars(select(Batch).where(kinds, ~Batch.is_screening).order_by(Batch.created_at)).all()
    return page(
        request, "labeling/review.html",
        found=found, batches=batches, batch=batch, show=show, start=start, size=PAGE_SIZE,
        decisions=DECISIONS, share=share,
    )  # fmt: skip


@router.get("/review/{item_id}", include_in_schema=False)
@allow(REVIEWERS)
def case_page(
    request: Request, store: Db, person: Person, item_id: str, names: bool = False, batch: str = ""
) -> HTMLResponse:
    """One item, side by side."""
    with store.read() as session:
        case = reviewing.case_of(session, person, item_id)
        shown = _case_out(case, names=names)
    return page(
        request, "labeling/review_item.html", case=shown, before=case.review.id if case.review else "", names=names,
        batch=batch, places=PLACES, ratings=RATINGS, flags=FLAGS, strengths=STRENGTHS, nudges=NUDGES,
        decisions=DECISIONS, share=share,
    )  # fmt: skip


@router.post("/review/{item_id}", include_in_schema=False)
@allow(REVIEWERS)
def decide_form(
    request: Request,
    store: Db,
    person: Person,
    item_id: str,
    decision: Annotated[Decision, Form()],
    note: Annotated[str, Form(max_length=2000)] = "",
    before: Annotated[str, Form(max_length=100)] = "",
    seconds: Annotated[float | None, Form(ge=0, le=86400)] = None,
    rank: Annotated[list[Annotated[int, Field(ge=1, le=50)]] | None, Form()] = None,
    batch: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Decide, and on to the next item."""
    wish = DecisionIn(decision=decision, note=note, ranks=rank or [], seconds=seconds, before=before or None)
    _decide(store, person, item_id, wish)
    with store.read() as session:
        following = [each for each in reviewing.disputed(session, person, batch_id=batch or None) if _is_open(each)]
    where = f"/review/{following[0].item.item_id}" if following else "/review"
    return go_to(request, f"{where}?batch={batch}" if batch else where)


@router.get("/api/review", tags=["review"], summary="Items that labelers disagree about")
@allow(REVIEWERS)
def list_disputed(
    store: Db,
    person: Person,
    batch: str = "",
    show: Show = "open",
    start: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> DisputesOut:
    """The most disputed first, forty at a time."""
    with store.read() as session:
        return _disputes(session, person, batch, show, start)


@router.get("/api/review/{item_id}", tags=["review"], summary="One item with what its labelers said")
@allow(REVIEWERS)
def read_case(store: Db, person: Person, item_id: str, names: bool = False) -> CaseOut:
    """Labelers have numbers unless names are asked for; models are not named."""
    with store.read() as session:
        return _case_out(reviewing.case_of(session, person, item_id), names=names)


@router.post("/api/review/{item_id}", tags=["review"], summary="Decide about an item", status_code=201)
@allow(REVIEWERS)
def decide(store: Db, person: Person, item_id: str, wish: DecisionIn) -> CaseOut:
    """Keep everything, discard the item (with a note), or settle it with ranks by place; the latest decision holds."""
    _decide(store, person, item_id, wish)
    return read_case(store, person, item_id)


def _decide(store: Db, person: User, item_id: str, wish: DecisionIn) -> None:
    with store.write() as session:
        reviewing.decide(
            session,
            session.get_one(User, person.id),
            item_id,
            wish.decision,
            note=wish.note,
            ranks=wish.ranks,
            seconds=wish.seconds,
            before=wish.before,
        )


def _is_open(each: Disputed) -> bool:
    return each.decision is None and not each.is_own


def _disputes(session: Session, person: User, batch: str, show: Show, start: int) -> DisputesOut:
    found = reviewing.disputed(session, person, batch_id=batch or None)
    wanted = [each for each in found if show == "all" or (each.decision is not None) == (show == "decided")]
    part = wanted[start : start + PAGE_SIZE]
    texts = reviewing.prompt_texts(session, {each.item.prompt_id for each in part})
    return DisputesOut(total=len(wanted), items=_items(session, part, texts))


def _items(session: Session, part: Sequence[Disputed], texts: Mapping[str, str]) -> list[DisputedOut]:
    return [
        DisputedOut(
            id=each.item.item_id,
            prompt=texts[each.item.prompt_id][:300],
            batch_id=each.item.batch_id,
            batch=session.get_one(Batch, each.item.batch_id).name,
            num_labelers=each.item.num_labelers,
            disagreement=each.item.disagreement,
            decision=each.decision,
            is_own=each.is_own,
        )
        for each in part
    ]


def _case_out(case: Case, *, names: bool) -> CaseOut:
    return CaseOut(
        id=case.item.id,
        batch=case.batch.name,
        prompt=list(case.prompt.messages),
        responses=list(case.texts),
        are_clips=clip_batches.run_of(case.batch) is not None,
        disagreement=case.disagreement,
        said=[_said_out(each, names=names) for each in case.said],
        review=_review_out(case),
    )


def _said_out(each: Said, *, names: bool) -> SaidOut:
    return SaidOut(
        labeler=each.alias,
        name=each.name if names else None,
        ranks=list(each.ranks),
        ratings=None if each.ratings is None else list(each.ratings),
        flags=None if each.flags is None else [list(flags) for flags in each.flags],
        strength=each.strength,
        comment=each.comment,
        seconds=each.seconds,
        nudges=list(each.nudges),
    )


def _review_out(case: Case) -> ReviewOut | None:
    if case.review is None:
        return None
    return ReviewOut(
        id=case.review.id,
        decision=case.review.decision,
        note=case.review.note,
        reviewer=case.reviewer,
        created_at=case.review.created_at,
        ranks=None if case.settled_ranks is None else list(case.settled_ranks),
    )
