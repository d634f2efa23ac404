"""The guidelines: read by everyone who labels, written by researchers, every version kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field

from palate.feedback.labelers import guidelines
from palate.feedback.store.tables import Guideline, User
from palate.studio.web.access import LABELERS, RESEARCHERS, Db, Person, allow
from palate.studio.web.rendering import go_to, page

router = APIRouter()

Text = Annotated[str, Field(min_length=1, max_length=50_000)]
After = Annotated[int, Field(ge=0)]


class GuidelineIn(BaseModel):
    """A new version; ``after`` is the one it was made from, 0 for the first."""

    text: Text
    after: After


class GuidelineOut(BaseModel):
    """One version, as Markdown."""

    version: int
    text: str
    created_at: float


@router.get("/guidelines", include_in_schema=False)
@allow(LABELERS)
def guidelines_page(request: Request, store: Db, person: Person, version: int | None = None) -> HTMLResponse:
    """One version, by default the one that applies, and the list of all."""
    with store.read() as session:
        versions = guidelines.history(session)
        shown = guidelines.version_of(session, version) if version is not None else versions[0] if versions else None
        names = {author: session.get_one(User, author).name for author in _authors(versions)}
    can_write = person.role in RESEARCHERS
    return page(request, "labeling/guidelines.html", versions=versions, shown=shown, names=names, can_write=can_write)


@router.get("/guidelines/new", include_in_schema=False)
@allow(RESEARCHERS)
def write_page(request: Request, store: Db) -> HTMLResponse:
    """The latest text, to be changed."""
    with store.read() as session:
        latest = guidelines.latest(session)
    text = latest.text if latest else guidelines.FIRST_TEXT
    return page(request, "labeling/guidelines_new.html", text=text, after=latest.version if latest else 0)


@router.post("/guidelines", include_in_schema=False)
@allow(RESEARCHERS)
def write(
    request: Request, store: Db, person: Person, text: Annotated[Text, Form()], after: Annotated[After, Form()]
) -> Response:
    """Save the text as a new version."""
    with store.write() as session:
        guidelines.write(session, session.get_one(User, person.id), text.replace("\r\n", "\n"), after=after)
    return go_to(request, "/guidelines")


@router.get("/api/guidelines", tags=["guidelines"], summary="Every version of the guidelines, the newest first")
@allow(LABELERS)
def list_versions(store: Db) -> list[GuidelineOut]:
    """The first of the list applies."""
    with store.read() as session:
        return [_out(each) for each in guidelines.history(session)]


@router.post("/api/guidelines", tags=["guidelines"], summary="Write a new version of the guidelines", status_code=201)
@allow(RESEARCHERS)
def write_version(store: Db, person: Person, new: GuidelineIn) -> GuidelineOut:
    """It applies to every judgement from now on."""
    with store.write() as session:
        return _out(guidelines.write(session, session.get_one(User, person.id), new.text, after=new.after))


def _authors(versions: Sequence[Guideline]) -> set[str]:
    return {each.author_id for each in versions if each.author_id}


def _out(version: Guideline) -> GuidelineOut:
    return GuidelineOut(version=version.version, text=version.text, created_at=version.created_at)
