"""People and how they come in."""

from __future__ import annotations

from sqlalchemy import (
    ForeignKey,
    Index,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column

from palate.feedback.store.tables.base import Table, fold_name, new_id, one_of

ROLES = ("admin", "researcher", "reviewer", "labeler", "chat")


def _folded(context: DefaultExecutionContext) -> str:
    return fold_name(context.get_current_parameters()["name"])  # type: ignore[no-untyped-call]


class User(Table):
    """A person with a role.

    Attributes:
        name_key: what makes the name unique; see `fold_name`.
        is_paused: may sign in and read, is given no work.
        is_held_out: their judgements are kept for evaluation and train nothing.
        screening: None before it, then "passed" or "failed".
        weight: of their judgements in training; set by aggregation or by hand.
        tasks_per_day: None means no limit.
    """

    __tablename__ = "users"
    __table_args__ = (one_of("role", ROLES),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    name_key: Mapped[str] = mapped_column(unique=True, default=_folded)
    password_hash: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[float]
    is_paused: Mapped[bool] = mapped_column(default=False)
    is_held_out: Mapped[bool] = mapped_column(default=False)
    screening: Mapped[str | None]
    weight: Mapped[float] = mapped_column(default=1.0)
    tasks_per_day: Mapped[int | None]


class Login(Table):
    """A session on the server: the browser holds a token, the table its hash."""

    __tablename__ = "logins"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    role: Mapped[str]
    csrf: Mapped[str]
    created_at: Mapped[float]
    seen_at: Mapped[float]


class Invitation(Table):
    """A single-use link that makes an account of a role."""

    __tablename__ = "invitations"
    __table_args__ = (one_of("role", ROLES),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    token_hash: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    note: Mapped[str] = mapped_column(default="")
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[float]
    expires_at: Mapped[float]
    used_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Token(Table):
    """A person's key to the API."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    token_hash: Mapped[str] = mapped_column(unique=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str]
    created_at: Mapped[float]
    seen_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Attempt(Table):
    """A failed sign-in, kept as long as it counts against the account or the address."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_key_at", "key", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    at: Mapped[float]
