"""The labeler's work as data: everything that the labelling screens do, a program can do here.

A task is one person's piece of work on one item. They see a prompt and K responses in K places, shuffled for them, and
speak of places; ids of items, responses and models stay on the server. Somebody else's task is not there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from palate.feedback.labelers import admission
from palate.feedback.store.tables import Batch, Item, Task, User
from palate.feedback.tasks import batches, blind, clip_batches, judgements, queue, worklist
from palate.feedback.tasks.judgements import DemonstrationForm, RankingForm
from palate.feedback.tasks.worklist import Draft, Pile
from palate.records import Message
from palate.studio.web.access import LABELERS, Db, Person, allow
from palate.studio.web.rendering import safe_html

router = APIRouter(prefix="/api/tasks", tags=["tasks"])

PLACES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SKIP_REASONS = {
    "unclear": "I do not understand what is asked",
    "language": "I do not read this language well enough",
    "knowledge": "I would need knowledge that I do not have",
    "disturbing": "I would rather not deal with this content",
    "broken": "Something is broken: empty, cut off or unreadable",
    "other": "Another reason",
}


class In(BaseModel):
    """A body that is sent to us: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(BaseModel):
    """What the screen asks for beside the ranking."""

    ratings: bool
    flags: list[str]


class TaskOut(BaseModel):
    """A task as its owner sees it: ``responses`` by place, and the form as far as it is filled in.

    ``draft`` is what was saved last, ``said`` what was handed in. Where clips are compared the responses are names of
    pictures, and `/label/{id}/clips/{place}.svg` has them.
    """

    id: str
    kind: Literal["ranking", "pair", "demonstration", "arena", "clips"]
    state: Literal["leased", "submitted", "skipped", "released"]
    batch_id: str
    batch: str
    is_screening: bool
    lease_seconds: float
    leased_until: float
    guideline_version: int | None
    prompt: list[Message]
    responses: list[str]
    asked: Asked
    draft: Draft | None
    draft_at: float | None
    said: Draft | None


class PileOut(BaseModel):
    """A batch as one person sees it."""

    id: str
    name: str
    kind: str
    is_screening: bool
    threshold: float | None
    done: int
    to_do: int
    seconds_left: float | None


class FinishedOut(BaseModel):
    """A task that was submitted or skipped."""

    id: str
    kind: str
    state: str
    batch: str
    prompt: str
    ended_at: float | None
    reason: str | None
    can_change: bool


class MineOut(BaseModel):
    """What there is to do for somebody, and what they did."""

    standing: worklist.Standing
    done_today: int
    seconds_today: float
    piles: list[PileOut]
    finished: list[FinishedOut]


class ClaimIn(In):
    """Which batch the next task shall come from; any if not said."""

    batch_id: Annotated[str, Field(max_length=100)] | None = None


class ClaimOut(BaseModel):
    """The next task, or none when everything is done."""

    task: TaskOut | None


class SubmittedOut(BaseModel):
    """What came of a form.

    Attributes:
        stored: whether it is kept; if not, `questions` wait for an answer: send it again with ``confirmed``.
        surplus: others had finished the item meanwhile; kept, but not counted.
        screening: the outcome of the test that this was the last task of.
    """

    stored: bool
    questions: list[str] = []
    surplus: bool = False
    screening: Literal["passed", "failed"] | None = None


class SkipIn(In):
    """Why somebody leaves a task to others."""

    reason: Literal["unclear", "language", "knowledge", "disturbing", "broken", "other"]
    note: Annotated[str, Field(max_length=500)] = ""


class SavedOut(BaseModel):
    """When a draft was saved, and until when the task is kept for its owner."""

    saved_at: float
    leased_until: float


class PreviewIn(In):
    """Markdown."""

    text: Annotated[str, Field(max_length=50_000)]


class PreviewOut(BaseModel):
    """HTML that can do no harm."""

    html: str


@router.post("/claim", summary="Take the next task, or the one in hand")
@allow(LABELERS)
def claim(store: Db, person: Person, wish: ClaimIn) -> ClaimOut:
    """The task is kept for its owner until its lease runs out; every saved draft renews it."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        task = queue.claim(session, user, batch_id=wish.batch_id)
        return ClaimOut(task=None if task is None else shown(session, task))


@router.get("/mine", summary="What there is to do, and what was done")
@allow(LABELERS)
def mine(store: Db, person: Person) -> MineOut:
    """The same numbers as on the first page of labelling."""
    with store.read() as session:
        return overview(session, session.get_one(User, person.id))


@router.post("/preview", summary="Show Markdown as it will be shown")
@allow(LABELERS)
def preview(text: PreviewIn) -> PreviewOut:
    """Nothing is stored."""
    return PreviewOut(html=safe_html(text.text))


@router.get("/{task_id}", summary="One task")
@allow(LABELERS)
def read(store: Db, person: Person, task_id: str) -> TaskOut:
    """The prompt, the responses by place, and the form so far."""
    with store.read() as session:
        return shown(session, queue.task_of(session, person, task_id))


@router.put("/{task_id}/draft", summary="Save the form so far")
@allow(LABELERS)
def save_draft(store: Db, person: Person, task_id: str, draft: Draft) -> SavedOut:
    """Renews the lease; after it ran out the task is taken again, if others have left a place."""
    with store.write() as session:
        task = queue.task_of(session, person, task_id)
        queue.save_draft(session, task, draft.model_dump(mode="json"))
        return SavedOut(saved_at=task.draft_at or 0.0, leased_until=task.leased_until)


@router.post("/{task_id}/submit", summary="Hand in")
@allow(LABELERS)
def submit(store: Db, person: Person, task_id: str, form: RankingForm | DemonstrationForm) -> SubmittedOut:
    """The same form twice is stored once; where something looks odd, questions come back and nothing is stored yet."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        task = queue.task_of(session, user, task_id)
        if isinstance(form, RankingForm):
            handed = judgements.submit_ranking(session, user, task, form)
        else:
            handed = judgements.submit_demonstration(session, user, task, form)
        batch = worklist.batch_of(session, task)
        if handed.judgement is None:
            return SubmittedOut(stored=False, questions=questions(form, handed.nudges, batch))
        outcome = _settle(session, user, batch)
        return SubmittedOut(stored=True, surplus=task.is_surplus, screening=outcome)


@router.put("/{task_id}/correction", summary="Replace what was handed in")
@allow(LABELERS)
def correct(store: Db, person: Person, task_id: str, form: RankingForm | DemonstrationForm) -> SubmittedOut:
    """The log keeps both; the new one counts."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        task = queue.task_of(session, user, task_id)
        handed = worklist.correct(session, user, task, form)
        stored = handed.judgement is not None
        batch = worklist.batch_of(session, task)
        return SubmittedOut(stored=stored, questions=[] if stored else questions(form, handed.nudges, batch))


@router.post("/{task_id}/skip", summary="Leave a task to others")
@allow(LABELERS)
def skip(store: Db, person: Person, task_id: str, why: SkipIn) -> TaskOut:
    """The reason is kept for whoever looks after the batch."""
    with store.write() as session:
        task = queue.task_of(session, person, task_id)
        note = " ".join(why.note.split())
        queue.skip(session, task, SKIP_REASONS[why.reason] + (f": {note}" if note else ""))
        return shown(session, task)


@router.post("/{task_id}/undo", summary="Take back what was handed in")
@allow(LABELERS)
def undo(store: Db, person: Person, task_id: str) -> TaskOut:
    """The task is in hand again, with the form as it was."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        task = queue.task_of(session, user, task_id)
        worklist.undo(session, user, task)
        return shown(session, task)


@router.post("/{task_id}/reopen", summary="Take up a skipped task again")
@allow(LABELERS)
def reopen(store: Db, person: Person, task_id: str) -> TaskOut:
    """Possible as long as others have left a place."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        task = queue.task_of(session, user, task_id)
        worklist.reopen(session, user, task)
        return shown(session, task)


def shown(session: Session, task: Task) -> TaskOut:
    """A task as its owner sees it."""
    item = session.get_one(Item, task.item_id)
    batch = session.get_one(Batch, item.batch_id)
    return TaskOut(
        id=task.id,
        kind=clip_batches.kind_of(batch),
        state=task.state,
        batch_id=batch.id,
        batch=batch.name,
        is_screening=batch.is_screening,
        lease_seconds=batch.lease_seconds,
        leased_until=task.leased_until,
        guideline_version=judgements.guideline_version(session),
        prompt=list(judgements.prompt_of(session, item).messages),
        responses=list(judgements.by_place(task.shown_order, blind.texts_of(session, item))),
        asked=asked(batch),
        draft=None if task.draft is None else Draft.model_validate(task.draft),
        draft_at=task.draft_at,
        said=worklist.said(session, task) if task.state == "submitted" else None,
    )


def asked(batch: Batch) -> Asked:
    """What a batch asks about each response."""
    found = batches.Asked.of(batch)
    return Asked(ratings=found.ratings, flags=list(found.flags))


def overview(session: Session, user: User) -> MineOut:
    """What there is to do for somebody, and what they did."""
    today = worklist.tally(session, user)
    standing = worklist.standing(session, user)
    return MineOut(
        standing=standing,
        done_today=today.done,
        seconds_today=today.seconds,
        piles=[pile_out(each) for each in worklist.piles(session, user)] if standing == "open" else [],
        finished=[_finished_out(each) for each in worklist.finished(session, user)],
    )


def pile_out(pile: Pile) -> PileOut:
    """A batch as one person sees it."""
    batch = pile.batch
    return PileOut(
        id=batch.id,
        name=batch.name,
        kind=clip_batches.kind_of(batch),
        is_screening=batch.is_screening,
        threshold=batch.threshold,
        done=pile.done,
        to_do=pile.to_do,
        seconds_left=pile.seconds_left,
    )


def questions(form: RankingForm | DemonstrationForm, nudges: tuple[str, ...], batch: Batch) -> list[str]:
    """The nudges in words."""
    assert isinstance(form, RankingForm), "only rankings are asked about"
    are_clips = clip_batches.run_of(batch) is not None
    what = "two clips. Have you watched both" if are_clips else f"{len(form.ranks)} responses. Have you read them all"
    texts = {
        "contradiction": _contradiction(form) if "contradiction" in nudges else "",
        "all_tied": "You put all responses into one rank. Are they really equally good?",
        "as_shown": "Your ranking is exactly the order in which the responses were shown. Is that what you mean?",
        "fast": f"That took {form.seconds:.0f} seconds for {what}?",
    }
    return [texts[nudge] for nudge in nudges]


def _contradiction(form: RankingForm) -> str:
    """Names the two places whose ratings and ranks are furthest apart."""
    ranks, ratings = form.ranks, [rating or 0 for rating in form.ratings or ()]
    places = range(len(ranks))
    pairs = [(i, j) for i in places for j in places if ranks[i] < ranks[j] and ratings[i] < ratings[j]]
    lower, higher = max(pairs, key=lambda pair: ratings[pair[1]] - ratings[pair[0]])
    return f"You rated {PLACES[higher]} higher than {PLACES[lower]} but ranked it lower. Is that what you mean?"


def _settle(session: Session, user: User, batch: Batch) -> Literal["passed", "failed"] | None:
    """The outcome of a screening test, once its last item is answered."""
    if not batch.is_screening:
        return None
    admission.settle(session, user, batch)
    return user.screening  # type: ignore[return-value]  # "passed", "failed" or None


def _finished_out(each: worklist.Finished) -> FinishedOut:
    return FinishedOut(
        id=each.task.id,
        kind=clip_batches.kind_of(each.batch),
        state=each.task.state,
        batch=each.batch.name,
        prompt=each.prompt.text[:200],
        ended_at=each.task.ended_at,
        reason=each.task.skip_reason,
        can_change=each.can_change,
    )
