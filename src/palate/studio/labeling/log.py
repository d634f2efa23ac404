"""The log of judgements, page by page, for programs that want more than a data set: corrections, comments, signals."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import aliased

from palate.corpus.export import Pseudonyms
from palate.feedback.export.other_tools import in_open_arena
from palate.feedback.store.tables import Item, Judgement, User
from palate.studio.web.access import RESEARCHERS, Db, Home, allow

router = APIRouter(tags=["judgements"])

LARGEST = 2**31 - 1


class JudgementOut(BaseModel):
    """One line of the log.

    `record` is what was said with everything it was said of, or empty where it was taken back; `supersedes` is the
    line that this one replaces or takes back, `superseded_by` the one that did that to it. Who said it is a pseudonym,
    the same as in exports.
    """

    number: int
    id: str
    kind: str
    labeler: str
    record: dict[str, Any]
    batch_id: str | None
    item_id: str | None
    supersedes: str | None
    superseded_by: str | None
    guideline_version: int | None
    seconds: float | None
    comment: str
    quality: dict[str, Any]
    created_at: float


class LogOut(BaseModel):
    """A page of the log; ``next`` is what to ask for after it, null at the end."""

    judgements: list[JudgementOut]
    next: int | None


@router.get("/api/judgements", summary="The log of judgements, page by page")
@allow(RESEARCHERS)
def list_judgements(
    store: Db,
    home: Home,
    after: Annotated[int, Query(ge=0, le=LARGEST, description="Number of the last line that was seen.")] = 0,
    batch: Annotated[str, Query(max_length=100)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> LogOut:
    """In its order. Left out is what people have not consented to be used, and votes of an arena that is open."""
    pseudonyms = Pseudonyms(home.secret.encode())
    later = aliased(Judgement)
    lines = (
        select(Judgement, User.name, Item.batch_id, later.id)
        .join(User, User.id == Judgement.user_id)
        .outerjoin(Item, Item.id == Judgement.item_id)
        .outerjoin(later, later.supersedes == Judgement.id)
        .where(Judgement.number > after, Judgement.consent, ~in_open_arena())
        .order_by(Judgement.number)
        .limit(limit + 1)
    )
    if batch:
        lines = lines.where(Item.batch_id == batch)
    with store.read() as session:
        found = session.execute(lines).all()
    shown = [
        _out(line, pseudonyms.name(name), batch_id, superseded_by)
        for line, name, batch_id, superseded_by in found[:limit]
    ]
    return LogOut(judgements=shown, next=shown[-1].number if len(found) > limit else None)


def _out(line: Judgement, labeler: str, batch_id: str | None, superseded_by: str | None) -> JudgementOut:
    # what was said in the chat and changed later may have been taken back in the end, and with it the consent
    is_gone = line.message_id is not None and superseded_by is not None
    record = {name: value for name, value in line.record.items() if name not in ("labeler", "author") and not is_gone}
    return JudgementOut(
        number=line.number,
        id=line.id,
        kind=line.kind,
        labeler=labeler,
        record=record,
        batch_id=batch_id,
        item_id=line.item_id,
        supersedes=line.supersedes,
        superseded_by=superseded_by,
        guideline_version=line.guideline_version,
        seconds=line.seconds,
        comment="" if is_gone else line.comment,
        quality=line.quality,
        created_at=line.created_at,
    )
