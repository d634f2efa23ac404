"""The log of judgements: forms people hand in become records, records become lines that are never changed.

A correction is a new line that supersedes the old one, and taking something back is a line too. What counts is the
view of the log without superseded lines (`current`); datasets are further views of that (`rankings`, `demonstrations`).

Forms speak of places on the screen, which were shuffled for the labeler; records speak of responses. Only this file
turns one into the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement, Select, exists, select
from sqlalchemy.orm import Session, aliased

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store.tables import (
    Batch,
    Guideline,
    Item,
    Judgement,
    PromptRow,
    ResponseRow,
    Review,
    Task,
    User,
    without_nul,
)
from palate.feedback.tasks import queue
from palate.records import Demonstration, Prompt, Ranking, Response

RATINGS = {
    1: "unusable",
    2: "bad",
    3: "rather bad",
    4: "acceptable",
    5: "rather good",
    6: "good",
    7: "excellent",
}
FLAGS = {
    "off_task": "Fails to follow the instruction",
    "inappropriate": "Inappropriate for an assistant",
    "hallucination": "Makes things up",
    "constraint_met": "Satisfies the constraint in the instruction",
    "sexual": "Sexual content",
    "violent": "Violent content",
    "encourages_harm": "Encourages violence, abuse, terrorism or self-harm, or fails to discourage it",
    "denigrates": "Denigrates a protected class",
    "harmful_advice": "Gives harmful advice",
    "opinion": "Expresses an opinion",
    "moral_judgement": "Expresses a moral judgement",
}
STRENGTHS = {0: "about the same", 1: "slightly better", 2: "better", 3: "much better"}
FAST_SECONDS = 2.0
"""A joint ranking in less than this for each response was hardly read."""

Written = Annotated[str, AfterValidator(without_nul)]
"""What a person typed, as it can be stored: the same form handed in twice is then the same."""
Rank = Annotated[int, Field(ge=1, le=50)]
Rating = Annotated[int, Field(ge=1, le=7)]


class Form(BaseModel):
    """What every form carries.

    Attributes:
        seconds: at work on it, idle time left out.
        confirmed: the person was asked about a nudge and stands by what they said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    comment: Annotated[Written, Field(max_length=2000)] = ""
    seconds: Annotated[float, Field(ge=0, le=86400)] = 0.0
    confirmed: bool = False


class RankingForm(Form):
    """K responses by place: ranks (1 best, equal is a tie), and if asked for ratings, flags and strength."""

    ranks: Annotated[tuple[Rank, ...], Field(min_length=1, max_length=50)]
    ratings: tuple[Rating | None, ...] | None = None
    flags: tuple[tuple[str, ...], ...] | None = None
    strength: Annotated[int, Field(ge=0, le=3)] | None = None

    @model_validator(mode="after")
    def _check(self) -> RankingForm:
        for name in ("ratings", "flags"):
            field = getattr(self, name)
            if field is not None and len(field) != len(self.ranks):
                raise ValueError(f"{name} has {len(field)} entries for {len(self.ranks)} responses")
        if self.ratings is not None and None in self.ratings and any(self.ratings):
            raise ValueError("rate every response or none")
        unknown = {flag for flags in self.flags or () for flag in flags} - FLAGS.keys()
        if unknown:
            raise ValueError(f"no such flag: {', '.join(sorted(unknown))}")
        return self


class DemonstrationForm(Form):
    """The answer its author would like to see."""

    text: Annotated[Written, Field(min_length=1, max_length=20000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """What came of a form: a judgement, or questions to be answered first (then nothing was stored)."""

    judgement: Judgement | None
    nudges: tuple[str, ...] = ()


def submit_ranking(session: Session, user: User, task: Task, form: RankingForm, *, now: float | None = None) -> Handed:
    """Hand in a ranking; where something looks odd, ask once before storing it.

    Raises:
        ConflictError: the task was handed in before, or the form is for another number of responses.
    """
    item = _item_for(session, task, form)
    nudges = nudges_of(form)
    if nudges and not form.confirmed:
        return Handed(judgement=None, nudges=nudges)
    ranking = _ranking(session, user, task, item, form)
    quality = {"nudges": list(nudges)} if nudges else {}
    return Handed(judgement=_hand_in(session, user, task, "ranking", ranking, form, quality, now))


def submit_demonstration(
    session: Session, user: User, task: Task, form: DemonstrationForm, *, now: float | None = None
) -> Handed:
    """Hand in a demonstration.

    Raises:
        ConflictError: the task was handed in before, the text is blank, or a ranking is wanted.
    """
    if not form.text.strip():
        raise ConflictError("write an answer first")
    item = session.get_one(Item, task.item_id)
    if item.response_ids:
        raise ConflictError("this task asks for a ranking: reload the page")
    prompt = prompt_of(session, item)
    record = Demonstration(prompt=prompt, response=Response(text=form.text), author=user.name)
    return Handed(judgement=_hand_in(session, user, task, "demonstration", record, form, {}, now))


def nudges_of(form: RankingForm) -> tuple[str, ...]:
    """What a gentle question should be asked about."""
    ranks, ratings = form.ranks, form.ratings or ()
    count = len(ranks)
    found = []
    rated = [(rank, rating) for rank, rating in zip(ranks, ratings, strict=False) if rating is not None]
    # a better rank with a lower rating
    if any(first[0] < second[0] and first[1] < second[1] for first in rated for second in rated):
        found.append("contradiction")
    if count > 2 and len(set(ranks)) == 1:
        found.append("all_tied")
    if count > 2 and list(ranks) == list(range(1, count + 1)):
        found.append("as_shown")
    if count > 1 and form.seconds < FAST_SECONDS * count:
        found.append("fast")
    return tuple(found)


def withdraw(session: Session, user: User, judgement: Judgement, *, now: float | None = None) -> Judgement:
    """Take a judgement back; its task can be done again.

    Raises:
        NotFoundError: it is somebody else's.
        ConflictError: it was replaced or withdrawn already.
    """
    _check_own(user, judgement)
    task = session.get_one(Task, judgement.task_id) if judgement.task_id is not None else None
    if task is not None:
        queue.hold(session, task)
    line = append(session, "withdrawal", {}, user, like=judgement, supersedes=judgement, now=now)
    if task is not None:
        queue.unfinish(session, task, now=now)
    return line


def correct_ranking(
    session: Session, user: User, judgement: Judgement, form: RankingForm, *, now: float | None = None
) -> Handed:
    """Replace a ranking that was handed in.

    Raises:
        NotFoundError: it is somebody else's.
        ConflictError: it was replaced or withdrawn already, or it is no ranking of a task.
    """
    _check_own(user, judgement)
    if judgement.task_id is None or judgement.kind != "ranking":
        raise ConflictError("only a ranking can be corrected: take this back and do it again")
    task = session.get_one(Task, judgement.task_id)
    item = _item_for(session, task, form)
    nudges = nudges_of(form)
    if nudges and not form.confirmed:
        return Handed(judgement=None, nudges=nudges)
    queue.hold(session, task)
    quality = {**({"nudges": list(nudges)} if nudges else {}), "edited": True}
    record = _ranking(session, user, task, item, form).model_dump(mode="json", exclude_defaults=True)
    line = append(
        session,
        "ranking",
        record,
        user,
        like=judgement,
        supersedes=judgement,
        seconds=form.seconds,
        comment=form.comment,
        quality=quality,
        now=now,
    )
    return Handed(judgement=line)


def append(
    session: Session,
    kind: str,
    record: dict[str, Any],
    user: User,
    *,
    like: Judgement | None = None,
    task: Task | None = None,
    item_id: str | None = None,
    message_id: str | None = None,
    supersedes: Judgement | None = None,
    seconds: float | None = None,
    comment: str = "",
    quality: dict[str, Any] | None = None,
    consent: bool = True,
    now: float | None = None,
) -> Judgement:
    """Write one line of the log; ``like`` lends its task, item and message.

    Raises:
        ConflictError: what it supersedes is superseded already.
    """
    if supersedes is not None:
        _check_latest(session, supersedes)
    line = Judgement(
        kind=kind,
        record=record,
        user_id=user.id,
        task_id=task.id if task else like.task_id if like else None,
        item_id=task.item_id if task else like.item_id if like else item_id,
        message_id=like.message_id if like else message_id,
        supersedes=supersedes.id if supersedes else None,
        guideline_version=guideline_version(session),
        seconds=seconds,
        comment=comment,
        quality=quality or {},
        consent=like.consent if like else consent,
        created_at=time.time() if now is None else now,
    )
    session.add(line)
    session.flush()
    return line


def current() -> Select[Judgement]:
    """The log without what was superseded or withdrawn, in its order."""
    later = aliased(Judgement)
    superseded = exists().where(later.supersedes == Judgement.id)
    return select(Judgement).where(Judgement.kind != "withdrawal", ~superseded).order_by(Judgement.number)


def current_of_task(session: Session, task: Task) -> Judgement | None:
    """What this task's owner now says."""
    return session.scalars(current().where(Judgement.task_id == task.id)).first()


def for_training(*, held_out: bool = False, of_clips: bool | None = False) -> Select[Judgement]:
    """What may teach a model: consented, not surplus, not from a test or an arena, not by held-out people.

    The latest review of an item decides: a discarded one is left out, of a settled one only the settlement counts.

    Args:
        held_out: the same of held-out people, which may only test one.
        of_clips: comparisons of clips instead, which teach the agent that asked for them; None: of either kind.
    """
    settled = exists().where(
        Review.item_id == Judgement.item_id,
        queue.is_latest_review(),
        Review.decision != "keep",
        (Review.judgement_id.is_(None)) | (Review.judgement_id != Judgement.id),
    )
    not_teaching = exists().where(
        Item.id == Judgement.item_id,
        Batch.id == Item.batch_id,
        Batch.is_screening | (Batch.kind == "arena"),
    )
    clips = exists().where(Item.id == Judgement.item_id, Batch.id == Item.batch_id, compares_clips())
    surplus = exists().where(Task.id == Judgement.task_id, Task.is_surplus)
    judge = exists().where(User.id == Judgement.user_id, User.is_held_out == held_out)
    found = current().where(Judgement.consent, ~settled, ~not_teaching, ~surplus, judge)
    return found if of_clips is None else found.where(clips if of_clips else ~clips)


def rankings(session: Session, view: Select[Judgement]) -> Iterator[Ranking]:
    """The rankings in a view of the log (thumbs, choices and edits are rankings too)."""
    for line in session.scalars(view.where(Judgement.kind != "demonstration")):
        yield Ranking.model_validate(line.record)


def demonstrations(session: Session, view: Select[Judgement]) -> Iterator[Demonstration]:
    """The demonstrations in a view of the log; an edited answer is one as well."""
    for line in session.scalars(view.where(Judgement.kind.in_(("demonstration", "edit")))):
        if line.kind == "demonstration":
            yield Demonstration.model_validate(line.record)
        else:
            edit = Ranking.model_validate(line.record)
            best = edit.responses[edit.ranks.index(1)]
            yield Demonstration(prompt=edit.prompt, response=best, author=edit.labeler)


def prompt_of(session: Session, item: Item) -> Prompt:
    """The record of an item's prompt."""
    return Prompt.model_validate(session.get_one(PromptRow, item.prompt_id).record)


def responses_of(session: Session, item: Item) -> list[Response]:
    """[K] the records of an item's responses, in the item's order."""
    rows = session.scalars(select(ResponseRow).where(ResponseRow.id.in_(item.response_ids))).all()
    by_id = {row.id: Response.model_validate(row.record) for row in rows}
    return [by_id[response_id] for response_id in item.response_ids]


def guideline_version(session: Session) -> int | None:
    """The version that applies now."""
    return session.scalar(select(Guideline.version).order_by(Guideline.version.desc()).limit(1))


def dense(ranks: Sequence[int]) -> tuple[int, ...]:
    """The same order and ties with ranks 1, 2, 3 and no gaps."""
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    return tuple(places[rank] for rank in ranks)


def by_response(order: Sequence[int], by_place: Sequence[Any]) -> tuple[Any, ...]:
    """[K] by place on the screen -> [K] by response."""
    result: list[Any] = [None] * len(order)
    for place, response in enumerate(order):
        result[response] = by_place[place]
    return tuple(result)


def by_place(order: Sequence[int], by_response: Sequence[Any]) -> tuple[Any, ...]:
    """[K] by response -> [K] by place on the screen."""
    return tuple(by_response[response] for response in order)


def _check_own(user: User, judgement: Judgement) -> None:
    if judgement.user_id != user.id:
        raise NotFoundError("no such judgement")


def compares_clips() -> ColumnElement[bool]:
    """Whether a batch is one of clips (see `clip_batches`)."""
    found: ColumnElement[bool] = Batch.settings["clips"].as_string().is_not(None)
    return found


def flags_offered(batch: Batch) -> tuple[str, ...]:
    """Which flags a batch asks for; a ranking from before this was written down asks for all, as it always did."""
    offered = batch.settings.get("flags", list(FLAGS) if batch.kind == "ranking" else [])
    return tuple(flag for flag in FLAGS if flag in offered)


def _check_latest(session: Session, judgement: Judgement) -> None:
    """Whoever changes a judgement first wins; another who does it at the same time waits here and sees the change."""
    session.execute(select(Judgement.id).where(Judgement.id == judgement.id).with_for_update(key_share=True))
    changed = session.scalar(select(exists().where(Judgement.supersedes == judgement.id)))
    if changed or judgement.kind == "withdrawal":
        raise ConflictError("this judgement was changed meanwhile: reload the page")


def _item_for(session: Session, task: Task, form: RankingForm) -> Item:
    item = session.get_one(Item, task.item_id)
    if len(form.ranks) != len(item.response_ids):
        raise ConflictError(f"{len(form.ranks)} ranks for {len(item.response_ids)} responses: reload the page")
    return item


def _ranking(session: Session, user: User, task: Task, item: Item, form: RankingForm) -> Ranking:
    order = task.shown_order
    rated = form.ratings is not None and None not in form.ratings
    offered = flags_offered(session.get_one(Batch, item.batch_id))
    asked = bool(offered) or any(form.flags or ())
    version = guideline_version(session)
    return Ranking(
        prompt=prompt_of(session, item),
        responses=tuple(responses_of(session, item)),
        ranks=by_response(order, dense(form.ranks)),
        ratings=by_response(order, form.ratings) if form.ratings is not None and rated else None,
        flags=by_response(order, form.flags) if form.flags is not None and asked else None,
        flags_offered=offered if form.flags is not None and offered else None,
        strength=float(form.strength) if form.strength else None,
        labeler=user.name,
        shown_order=tuple(order),
        guideline_version="" if version is None else str(version),
        seconds=form.seconds,
    )


def _hand_in(
    session: Session,
    user: User,
    task: Task,
    kind: str,
    record: Ranking | Demonstration,
    form: Form,
    quality: dict[str, Any],
    now: float | None,
) -> Judgement:
    """One line, and the task is done; handing the same in again, as after a lost reply, changes nothing."""
    said = record.model_dump(mode="json", exclude_defaults=True)
    queue.hold(session, task)
    if task.state == "submitted":
        before = current_of_task(session, task)
        if before is not None and before.comment == form.comment and _gist(before.record) == _gist(said):
            return before
    queue.finish(session, task, now=now)
    if task.is_surplus:
        quality = {**quality, "surplus": True}
    return append(
        session, kind, said, user, task=task, seconds=form.seconds, comment=form.comment, quality=quality, now=now
    )


def _gist(record: dict[str, Any]) -> dict[str, Any]:
    """What was said, without what goes on changing while a page is open."""
    return {key: value for key, value in record.items() if key not in ("seconds", "guideline_version")}
