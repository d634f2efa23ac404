"""The labelling screens: what there is to do, one task at a time, and the end of it.

The pages are made here; what happens on them goes through `tasks`, the same data that programs use. A task's page is
complete when it arrives: prompt, responses, the form as far as it was filled in, guidelines, help.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.feedback.labelers import guidelines
from palate.feedback.store.tables import Judgement, Task, User
from palate.feedback.tasks import queue, worklist
from palate.feedback.tasks.judgements import FLAGS, RATINGS, STRENGTHS
from palate.studio.labeling.tasks import PLACES, SKIP_REASONS, TaskOut, overview, pile_out, shown
from palate.studio.web.access import LABELERS, Db, Person, allow
from palate.studio.web.rendering import go_to, page

router = APIRouter(include_in_schema=False)

UNDO_SECONDS = 900.0
"""How long the last task can be taken back with one key; later it is found on the first page."""

KINDS = {
    "ranking": "Rank the responses",
    "pair": "Compare two responses",
    "clips": "Compare two clips",
    "demonstration": "Write a response",
    "arena": "Compare two responses",
}


@router.get("/label")
@allow(LABELERS)
def label_page(request: Request, store: Db, person: Person) -> HTMLResponse:
    """What there is to do, and what was done."""
    with store.read() as session:
        user = session.get_one(User, person.id)
        mine = overview(session, user)
        news = _news(session, user)
    return page(request, "labeling/label.html", mine=mine, news=news, kinds=KINDS, me=user)


@router.post("/label")
@allow(LABELERS)
def begin(request: Request, store: Db, person: Person, batch_id: Annotated[str, Form(max_length=100)] = "") -> Response:
    """On to the next task."""
    with store.write() as session:
        task = queue.claim(session, session.get_one(User, person.id), batch_id=batch_id or None)
    return go_to(request, f"/label/{task.id}" if task else "/label/done")


@router.get("/label/done")
@allow(LABELERS)
def done_page(request: Request, store: Db, person: Person) -> HTMLResponse:
    """The end of a pile: thanks, and what else there is."""
    with store.read() as session:
        user = session.get_one(User, person.id)
        mine = overview(session, user)
        last = _last(session, user, "")
    return page(request, "labeling/label_done.html", mine=mine, last=last, kinds=KINDS, me=user)


@router.get("/label/{task_id}")
@allow(LABELERS)
def task_page(request: Request, store: Db, person: Person, task_id: str) -> HTMLResponse:
    """The work screen of a task."""
    with store.read() as session:
        user = session.get_one(User, person.id)
        task = queue.task_of(session, user, task_id)
        context = _work(session, user, task)
    return page(request, "labeling/label_task.html", **context)


@router.post("/label/{task_id}/undo")
@allow(LABELERS)
def undo(request: Request, store: Db, person: Person, task_id: str) -> Response:
    """Take back what was handed in, and go there."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        worklist.undo(session, user, queue.task_of(session, user, task_id))
    return go_to(request, f"/label/{task_id}")


@router.post("/label/{task_id}/reopen")
@allow(LABELERS)
def reopen(request: Request, store: Db, person: Person, task_id: str) -> Response:
    """Take up a skipped task again, and go there."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        worklist.reopen(session, user, queue.task_of(session, user, task_id))
    return go_to(request, f"/label/{task_id}")


def _work(session: Session, user: User, task: Task) -> dict[str, Any]:
    """Everything on a task's page."""
    found = shown(session, task)
    last = _last(session, user, task.id)
    return {
        "task": found,
        "data": _for_script(found, last),
        "title": KINDS[found.kind],
        "pile": pile_out(worklist.pile(session, user, worklist.batch_of(session, task))),
        "guideline": guidelines.latest(session),
        "news": _news(session, user),
        "last": last,
        "places": PLACES,
        "ratings": RATINGS,
        "flags": {flag: FLAGS[flag] for flag in found.asked.flags},
        "strengths": STRENGTHS,
        "reasons": SKIP_REASONS,
        "skip_reason": task.skip_reason,
    }


def _for_script(task: TaskOut, last: dict[str, str] | None) -> dict[str, Any]:
    """What the page's script cannot read off the page: the form's values and how to send them."""
    fields = {"id", "kind", "state", "batch_id", "lease_seconds", "asked", "draft", "draft_at", "said"}
    return {**task.model_dump(mode="json", include=fields), "count": len(task.responses), "last": last}


def _last(session: Session, user: User, besides: str) -> dict[str, str] | None:
    """The task that this person finished last, if that is not long ago."""
    for each in worklist.finished(session, user, limit=1):
        recent = (each.task.ended_at or 0.0) > time.time() - UNDO_SECONDS
        if recent and each.can_change and each.task.id != besides:
            return {"id": each.task.id, "state": each.task.state}
    return None


def _news(session: Session, user: User) -> bool:
    """Whether the guidelines have changed since this person's last judgement."""
    latest = guidelines.latest(session)
    known = session.scalars(
        select(Judgement.guideline_version)
        .where(Judgement.user_id == user.id)
        .order_by(Judgement.number.desc())
        .limit(1)
    ).all()
    return latest is not None and bool(known) and known[0] != latest.version
