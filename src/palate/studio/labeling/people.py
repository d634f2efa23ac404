"""The people of a workspace: who they are, what they have done, inviting them, changing what they may do."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from palate.feedback.labelers import gold, roster
from palate.feedback.labelers.roster import MAX_WEIGHT, Changes, Done, Labeler
from palate.feedback.store import people
from palate.feedback.store.tables import Invitation, User
from palate.feedback.tasks import meetings
from palate.studio.web import charts
from palate.studio.web.access import ADMINS, Db, Person, allow
from palate.studio.web.charts import Series
from palate.studio.web.figures import EstimateOut, day_label, percent, share
from palate.studio.web.rendering import go_to, page

router = APIRouter()

Role = Literal["admin", "researcher", "reviewer", "labeler", "chat"]

ROLE_NAMES = {
    "labeler": "labeler: judges and writes",
    "reviewer": "reviewer: also decides where labelers disagree",
    "researcher": "researcher: also makes batches, runs and exports",
    "admin": "admin: everything, also people",
    "chat": "chat user: talks with the models, nothing else",
}
EXPIRIES = {1: "for a day", 7: "for a week", 30: "for 30 days"}


class PersonOut(BaseModel):
    """A person and what they have done; ``seconds`` is the median of a task, times are since 1970."""

    id: str
    name: str
    role: str
    is_paused: bool
    is_held_out: bool
    screening: Literal["passed", "failed"] | None
    weight: float
    tasks_per_day: int | None
    num_done: int
    seconds: float | None
    agreement: EstimateOut
    num_others: int
    created_at: float
    last_seen: float | None


class DoneOut(BaseModel):
    """One judgement; ``agreement`` is the share of verdicts that others on the same item gave too."""

    item_id: str | None
    batch: str
    prompt: str
    at: float
    seconds: float | None
    nudges: list[str]
    agreement: float | None


class PersonDetailOut(PersonOut):
    """A person with their latest judgements."""

    history: list[DoneOut]


class InvitationIn(BaseModel):
    """Whom to invite; ``note`` is for yourself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role = "labeler"
    note: Annotated[str, Field(max_length=200)] = ""
    days: Annotated[int, Field(ge=1, le=90)] = 7


class InvitationOut(BaseModel):
    """An invitation that can still be used."""

    id: str
    role: str
    note: str
    created_at: float
    expires_at: float


class NewInvitationOut(InvitationOut):
    """With its link, which is shown this once and kept nowhere."""

    link: str


class RetakenOut(BaseModel):
    """The outcome of the screening test after a change."""

    screening: Literal["passed", "failed"] | None


@router.get("/people", include_in_schema=False)
@allow(ADMINS)
def people_page(request: Request, store: Db) -> HTMLResponse:
    """Everyone, and the invitations that are open."""
    everyone = roster.labelers(store)
    with store.read() as session:
        invitations = roster.open_invitations(session)
    return page(
        request, "labeling/people.html",
        everyone=everyone, invitations=invitations, roles=ROLE_NAMES, expiries=EXPIRIES,
        percent=percent,
    )  # fmt: skip


@router.get("/people/{user_id}", include_in_schema=False)
@allow(ADMINS)
def person_page(request: Request, store: Db, user_id: str) -> HTMLResponse:
    """One person."""
    (found,) = roster.labelers(store, user_id)
    with store.read() as session:
        done = roster.history(session, found.user, limit=500)
        met = roster.meetings_of(session, found.user)
        has_test = bool(gold.tests(session))
    return page(
        request, "labeling/person.html",
        person=found, done=done[:40], num_shown=len(done), roles=ROLE_NAMES, percent=percent,
        share=share, pictures=_pictures(done, met), max_weight=MAX_WEIGHT, has_test=has_test,
    )  # fmt: skip


@router.post("/people/{user_id}/settings", include_in_schema=False)
@allow(ADMINS)
def change_settings(
    request: Request,
    store: Db,
    person: Person,
    user_id: str,
    role: Annotated[Role, Form()],
    weight: Annotated[float, Form(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)],
    tasks_per_day: Annotated[int | None, Form(ge=0, le=10_000)] = None,
) -> Response:
    """Role, weight and daily share; no share means no limit."""
    _change(store, person, user_id, Changes(role=role, weight=weight, tasks_per_day=tasks_per_day))
    return go_to(request, f"/people/{user_id}")


@router.post("/people/{user_id}/state", include_in_schema=False)
@allow(ADMINS)
def change_state(
    request: Request,
    store: Db,
    person: Person,
    user_id: str,
    is_paused: Annotated[bool | None, Form()] = None,
    is_held_out: Annotated[bool | None, Form()] = None,
    screening: Annotated[Literal["passed", "failed"] | None, Form()] = None,
) -> Response:
    """Pause or resume, hold out or not, or decide the screening test by hand."""
    given = {"is_paused": is_paused, "is_held_out": is_held_out, "screening": screening}
    wanted = {name: value for name, value in given.items() if value is not None}
    _change(store, person, user_id, Changes.model_validate(wanted))
    return go_to(request, f"/people/{user_id}")


@router.post("/people/{user_id}/retake", include_in_schema=False)
@allow(ADMINS)
def retake(request: Request, store: Db, person: Person, user_id: str) -> Response:
    """The screening test once more."""
    retake_test(store, person, user_id)
    return go_to(request, f"/people/{user_id}")


@router.post("/people/{user_id}/sign-out", include_in_schema=False)
@allow(ADMINS)
def sign_out(request: Request, store: Db, person: Person, user_id: str) -> Response:
    """End all sessions and tokens."""
    end_sessions(store, person, user_id)
    return go_to(request, f"/people/{user_id}")


@router.post("/people/invitations/{invitation_id}/revoke", include_in_schema=False)
@allow(ADMINS)
def revoke(request: Request, store: Db, person: Person, invitation_id: str) -> Response:
    """Take an invitation back."""
    revoke_invitation(store, person, invitation_id)
    return go_to(request, "/people")


@router.get("/api/people", tags=["people"], summary="Everyone and what they have done")
@allow(ADMINS)
def list_people(store: Db) -> list[PersonOut]:
    """By name."""
    return [PersonOut.model_validate(_out(each)) for each in roster.labelers(store)]


@router.get("/api/people/{user_id}", tags=["people"], summary="One person with their latest judgements")
@allow(ADMINS)
def read_person(store: Db, user_id: str, limit: Annotated[int, Field(ge=1, le=500)] = 50) -> PersonDetailOut:
    """The latest judgement first."""
    (found,) = roster.labelers(store, user_id)
    with store.read() as session:
        done = roster.history(session, found.user, limit=limit)
    return PersonDetailOut.model_validate({**_out(found), "history": [_done_out(each) for each in done]})


@router.patch("/api/people/{user_id}", tags=["people"], summary="Change what a person may do and what they count")
@allow(ADMINS)
def change_person(store: Db, person: Person, user_id: str, changes: Changes) -> PersonOut:
    """What is not named stays; another role ends the person's sessions."""
    _change(store, person, user_id, changes)
    (found,) = roster.labelers(store, user_id)
    return PersonOut.model_validate(_out(found))


@router.delete("/api/people/{user_id}/sessions", tags=["people"], summary="Sign a person out everywhere")
@allow(ADMINS)
def end_sessions(store: Db, person: Person, user_id: str) -> Response:
    """Their API tokens end too."""
    with store.write() as session:
        admin = session.get_one(User, person.id)
        roster.end_sessions(session, roster.person_of(session, user_id), by=admin)
    return Response(status_code=204)


@router.post("/api/people/{user_id}/retake", tags=["people"], summary="Let a person take the screening test again")
@allow(ADMINS)
def retake_test(store: Db, person: Person, user_id: str) -> RetakenOut:
    """Their answers to it are taken back."""
    with store.write() as session:
        user = roster.person_of(session, user_id)
        gold.retake(session, user, by=session.get_one(User, person.id))
        return RetakenOut.model_validate({"screening": user.screening})


@router.get("/api/invitations", tags=["people"], summary="Invitations that can still be used")
@allow(ADMINS)
def list_invitations(store: Db) -> list[InvitationOut]:
    """Without their links, which are kept nowhere."""
    with store.read() as session:
        return [InvitationOut.model_validate(_invitation(each)) for each in roster.open_invitations(session)]


@router.post("/api/invitations", tags=["people"], summary="Invite somebody", status_code=201)
@allow(ADMINS)
def invite(request: Request, store: Db, person: Person, wish: InvitationIn) -> NewInvitationOut:
    """The link works once; whoever opens it chooses a name and a password."""
    with store.write() as session:
        admin = session.get_one(User, person.id)
        note = " ".join(wish.note.split())
        secret = people.invite(session, wish.role, by=admin, note=note, seconds=wish.days * 86400.0)
        made = session.scalars(select(Invitation).where(Invitation.token_hash == people.hash_secret(secret))).one()
        return NewInvitationOut.model_validate({**_invitation(made), "link": _link(request, secret)})


@router.delete("/api/invitations/{invitation_id}", tags=["people"], summary="Take an invitation back")
@allow(ADMINS)
def revoke_invitation(store: Db, person: Person, invitation_id: str) -> Response:
    """Its link stops working."""
    with store.write() as session:
        roster.revoke(session, invitation_id, by=session.get_one(User, person.id))
    return Response(status_code=204)


def _change(store: Db, person: User, user_id: str, changes: Changes) -> None:
    with store.write() as session:
        admin = session.get_one(User, person.id)
        roster.change(session, roster.person_of(session, user_id), changes, by=admin)


def _link(request: Request, secret: str) -> str:
    """By the address under which the admin sees the app."""
    scheme = "https" if request.app.state.secure_cookies else request.url.scheme
    return f"{scheme}://{request.url.netloc}/join/{secret}"


def _out(each: Labeler) -> dict[str, Any]:
    user = each.user
    columns = ("id", "name", "role", "is_paused", "is_held_out", "screening", "weight", "tasks_per_day", "created_at")
    done = {
        "num_done": each.num_done,
        "seconds": each.seconds,
        "agreement": EstimateOut.of(each.agreement),
        "num_others": each.num_others,
        "last_seen": each.last_seen,
    }
    return {**{column: getattr(user, column) for column in columns}, **done}


def _done_out(each: Done) -> DoneOut:
    return DoneOut(
        item_id=each.item_id,
        batch=each.batch,
        prompt=each.prompt[:300],
        at=each.at,
        seconds=each.seconds,
        nudges=list(each.nudges),
        agreement=each.agreement,
    )


def _invitation(each: Invitation) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("id", "role", "note", "created_at", "expires_at")}


def _pictures(done: list[Done], met: list[meetings.Meeting]) -> list[Markup]:
    """Work and agreement day by day, once there are two days to compare."""
    days = Counter(int(each.at // meetings.DAY) for each in done)
    if len(days) < 2:
        return []
    span = range(min(days), max(days) + 1)
    work = Series(name="judgements", x=list(span), y=[float(days[day]) for day in span])
    periods = meetings.over_time(met)
    agreeing = Series(
        name="agreement",
        x=[period.start // meetings.DAY for period in periods],
        y=[period.agreement.value for period in periods],
        low=[period.agreement.low for period in periods],
        high=[period.agreement.high for period in periods],
    )
    return [
        charts.lines("Judgements a day", [work], x_format=day_label, y_low=0, y_within=charts.COUNT),
        charts.lines(
            "Agreement with others",
            [agreeing],
            x_format=day_label,
            y_format=share,
            y_low=0,
            y_high=1,
            y_within=charts.SHARE,
        ),
    ]
