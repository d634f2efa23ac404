"""Tokens: a person's keys for programs, such as anything that speaks the OpenAI protocol.

A token can do what its owner can. It is shown once, when it is made; the database keeps its hash. Tokens are made and
revoked by people who are signed in: whoever gets hold of one cannot make themselves another.
"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from palate.errors import ConflictError, ForbiddenError, NotFoundError
from palate.feedback.store import people
from palate.feedback.store.tables import Token, User
from palate.studio.web.access import CHATTERS, Db, Person, Visitor, allow
from palate.studio.web.rendering import page

router = APIRouter(tags=["tokens"])

MOST_TOKENS = 20
"""In use at a time, of one person."""


class TokenIn(BaseModel):
    """What the token is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=60)]


class TokenOut(BaseModel):
    """A token in use, without its secret."""

    id: str
    name: str
    created_at: float
    seen_at: float | None


class NewToken(TokenOut):
    """A token that was just made; the secret is not told again."""

    secret: str


@router.get("/tokens", include_in_schema=False)
@allow(CHATTERS)
def tokens_page(request: Request, store: Db, person: Person) -> HTMLResponse:
    """Make, name and revoke."""
    with store.read() as session:
        mine = _in_use(session, person)
    return page(request, "web/tokens.html", tokens=mine, address=str(request.base_url) + "v1")


@router.get("/api/tokens", summary="My tokens")
@allow(CHATTERS)
def list_tokens(store: Db, person: Person) -> list[TokenOut]:
    """Those in use, the newest first."""
    with store.read() as session:
        return [_out(token) for token in _in_use(session, person)]


@router.post("/api/tokens", summary="Make a token", status_code=201)
@allow(CHATTERS)
def make(request: Request, store: Db, person: Person, wanted: TokenIn) -> NewToken:
    """The only time its secret is shown."""
    _check_signed_in(request)
    name = " ".join(wanted.name.split())
    if not name:
        raise ConflictError("give the token a name, so that you know later what it is for")
    with store.write() as session:
        user = session.get_one(User, person.id, with_for_update=True)
        if len(_in_use(session, user)) >= MOST_TOKENS:
            raise ConflictError(f"{MOST_TOKENS} tokens are in use: revoke one first")
        token, secret = people.issue_token(session, user, name)
        return NewToken(**_out(token).model_dump(), secret=secret)


@router.delete("/api/tokens/{token_id}", summary="Revoke a token", status_code=204)
@allow(CHATTERS)
def revoke(request: Request, store: Db, person: Person, token_id: str) -> None:
    """At once and for good."""
    _check_signed_in(request)
    with store.write() as session:
        token = session.get(Token, token_id)
        if token is None or token.user_id != person.id or token.revoked_at is not None:
            raise NotFoundError("no such token")
        token.revoked_at = time.time()
        people.record(session, person.id, "revoked a token", name=token.name)


def _check_signed_in(request: Request) -> None:
    visitor: Visitor = request.state.visitor
    if visitor.csrf is None:
        raise ForbiddenError("tokens are made and revoked on the page Tokens, not by a program")


def _in_use(session: Session, user: User) -> list[Token]:
    mine = select(Token).where(Token.user_id == user.id, Token.revoked_at.is_(None))
    return list(session.scalars(mine.order_by(Token.created_at.desc(), Token.id)))


def _out(token: Token) -> TokenOut:
    return TokenOut(id=token.id, name=token.name, created_at=token.created_at, seen_at=token.seen_at)
