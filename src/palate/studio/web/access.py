"""Who may do what: every route names its roles, and a route that names none is closed to all.

    @router.post("/batches")
    @allow(ADMINS)
    def create_batch(person: Person, store: Db, ...): ...

`guard` runs before every route of the app. It finds out who asks (a session cookie, or a bearer token for programs),
compares roles, and wants proof that a change of state comes from our own pages: the session's CSRF token in the form
field ``csrf`` or the header ``X-CSRF-Token``. Whoever is not signed in is sent to the sign-in page, or gets 401 where a
program asked.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from palate.corpus.containers.files import has_half_character
from palate.errors import DataError, ForbiddenError
from palate.feedback.store import people
from palate.feedback.store.database import Store
from palate.feedback.store.tables import ROLES, User
from palate.studio.web.workspace import Workspace

COOKIE = "palate_session"

ANYONE = frozenset({"anyone"})
CHATTERS = frozenset(ROLES)
LABELERS = CHATTERS - {"chat"}
REVIEWERS = LABELERS - {"labeler"}
RESEARCHERS = REVIEWERS - {"reviewer"}
ADMINS = frozenset({"admin"})

_SAFE = {"GET", "HEAD", "OPTIONS"}

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class SignInNeeded(Exception):
    """Nobody is signed in where somebody must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who is asking.

    Attributes:
        csrf: of their session; None for a program with a token, which no foreign page can make send it.
    """

    user: User
    csrf: str | None


def allow(roles: frozenset[str]) -> Callable[[Endpoint], Endpoint]:
    """Open an endpoint to these roles."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.roles = roles  # type: ignore[attr-defined]
        return endpoint

    return mark


def roles_of(route: APIRoute) -> frozenset[str]:
    """The roles a route is open to; none unless it says so."""
    return getattr(route.endpoint, "roles", frozenset())


def the_workspace(request: Request) -> Workspace:
    """The workspace this app serves."""
    workspace: Workspace = request.app.state.workspace
    return workspace


def the_store(request: Request) -> Store:
    """Its database."""
    return the_workspace(request).store


def identify(request: Request) -> Visitor | None:
    """Who holds the cookie or the token that came along."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    store = the_store(request)
    if scheme.lower() == "bearer" and secret:
        return _program(store, secret.strip())
    cookie = request.cookies.get(COOKIE)
    if not cookie:
        return None
    with store.read() as session:
        found = people.session_of(session, cookie)
    if found is None:
        return None
    user, login = found
    if people.is_worth_noting(login):
        with store.write() as session:
            people.note_seen(session, login.token_hash)
    return Visitor(user=user, csrf=login.csrf)


def _program(store: Store, secret: str) -> Visitor | None:
    with store.read() as session:
        token = people.token_of(session, secret)
        user = None if token is None else session.get_one(User, token.user_id)
    if token is None or user is None:
        return None
    if people.is_worth_noting(token):
        with store.write() as session:
            people.note_used(session, token.id)
    return Visitor(user=user, csrf=None)


async def guard(request: Request, visitor: Annotated[Visitor | None, Depends(identify)]) -> None:
    """Let the request through, or raise."""
    request.state.visitor = visitor
    roles = roles_of(request.scope["route"])
    if roles != ANYONE:
        if visitor is None:
            raise SignInNeeded
        if visitor.user.role not in roles:
            raise ForbiddenError("your role does not allow this")
    await _check_text(request)
    if request.method in _SAFE:
        return
    if visitor is None or roles == ANYONE:
        _check_origin(request)
    elif visitor.csrf is not None:
        await _check_csrf(request, visitor.csrf)


async def _check_text(request: Request) -> None:
    """JSON can hold half a character, escaped; nothing that it is written to can."""
    if "json" in request.headers.get("content-type", "") and b"\\u" in (body := await request.body()):
        with suppress(ValueError, RecursionError):  # what is no JSON is refused where it is used
            if has_half_character(json.loads(body)):
                raise DataError("the text holds half a character (a lone surrogate): send whole ones")


def person(request: Request) -> User:
    """Whoever is signed in; only for routes that are not open to anyone."""
    visitor: Visitor = request.state.visitor
    return visitor.user


async def _check_csrf(request: Request, expected: str) -> None:
    given = request.headers.get("x-csrf-token")
    # not multipart: a file would be read whole before anybody knew that it may be sent
    if given is None and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        given = str((await request.form()).get("csrf", ""))
    if not hmac.compare_digest((given or "").encode(), expected.encode()):
        raise ForbiddenError("the page was open too long or the form is not ours: reload the page and send it again")


def _check_origin(request: Request) -> None:
    """Forms that need no session (sign-in, invitation) are at least not sent by another site."""
    origin = request.headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise ForbiddenError("this form was sent from another site")


Person = Annotated[User, Depends(person)]
Db = Annotated[Store, Depends(the_store)]
Home = Annotated[Workspace, Depends(the_workspace)]
