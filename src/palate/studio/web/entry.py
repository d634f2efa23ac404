"""Coming in and going out: sign-in, invitation, account."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from palate.errors import ConflictError, PalateError, TooManyError
from palate.feedback.store import people
from palate.feedback.store.tables import User
from palate.studio.web.access import ANYONE, CHATTERS, COOKIE, Db, Person, allow
from palate.studio.web.navigation import home_of
from palate.studio.web.rendering import go_to, page, wants_json

router = APIRouter(include_in_schema=False)

Name = Annotated[str, Form(max_length=200)]
Next = Annotated[str, Form(max_length=2000)]
Password = Annotated[str, Form(max_length=people.MAX_PASSWORD)]


@router.get("/")
@allow(CHATTERS)
def home(person: Person) -> RedirectResponse:
    """Everyone's first page is where their work is."""
    return RedirectResponse(home_of(person.role), status_code=303)


@router.get("/sign-in")
@allow(ANYONE)
def sign_in_page(request: Request, next: str = "/") -> HTMLResponse:
    """Name and password."""
    return page(request, "web/sign_in.html", next=_local(next), error="", name="")


@router.post("/sign-in")
@allow(ANYONE)
def sign_in(
    request: Request, store: Db, name: Name, password: Password, next: Annotated[str, Form()] = "/"
) -> Response:
    """A new session, or the same page with what went wrong."""
    address = request.client.host if request.client else ""
    try:
        with store.write() as session:
            signed_in = people.sign_in(session, name, password, address)
        if signed_in is None:
            raise people.wrong_sign_in()
    except PalateError as error:
        if wants_json(request):
            raise
        status = 429 if isinstance(error, TooManyError) else 403
        return page(request, "web/sign_in.html", status=status, next=_local(next), error=str(error), name=name)
    return _with_cookie(request, go_to(request, _local(next)), signed_in)


@router.get("/join/{secret}")
@allow(ANYONE)
def join_page(request: Request, store: Db, secret: str) -> HTMLResponse:
    """An invitation: choose a name and a password."""
    with store.read() as session:
        invitation = people.invitation_of(session, secret)
    return page(request, "web/join.html", secret=secret, role=invitation.role, error="", name="")


@router.post("/join/{secret}")
@allow(ANYONE)
def join(request: Request, store: Db, secret: str, name: Name, password: Password) -> Response:
    """Make the account and sign in."""
    try:
        with store.write() as session:
            signed_in = people.accept(session, secret, name, password)
    except ConflictError as error:
        if wants_json(request):
            raise
        with store.read() as session:
            role = people.invitation_of(session, secret).role
        return page(request, "web/join.html", status=409, secret=secret, role=role, error=str(error), name=name)
    return _with_cookie(request, go_to(request, "/"), signed_in)


@router.post("/sign-out")
@allow(CHATTERS)
def sign_out(request: Request, store: Db) -> Response:
    """End this session."""
    with store.write() as session:
        people.sign_out(session, request.cookies.get(COOKIE, ""))
    response = go_to(request, "/sign-in")
    response.delete_cookie(COOKIE)
    return response


@router.get("/account")
@allow(CHATTERS)
def account_page(request: Request) -> HTMLResponse:
    """Who one is here."""
    return page(request, "web/account.html")


@router.post("/account/password")
@allow(CHATTERS)
def change_password(request: Request, store: Db, person: Person, old: Password, new: Password) -> Response:
    """Another password; every session ends and a new one begins."""
    with store.write() as session:
        user = session.get_one(User, person.id)
        people.change_password(session, user, old, new)
        signed_in = people.open_session(session, user)
    return _with_cookie(request, go_to(request, "/account"), signed_in)


def _with_cookie(request: Request, response: Response, signed_in: people.SignedIn) -> Response:
    response.set_cookie(
        COOKIE,
        signed_in.token,
        max_age=int(people.ABSOLUTE_SECONDS),
        httponly=True,
        samesite="lax",
        secure=request.app.state.secure_cookies,
    )
    return response


def _local(path: str) -> str:
    """Only pages of our own are gone on to."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
