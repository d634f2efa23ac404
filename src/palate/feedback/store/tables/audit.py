"""What happened, and settings."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from palate.feedback.store.tables.base import Table


class Event(Table):
    """Who did what: sign-ins, changes of role, exports, jobs."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    user_id: Mapped[str | None]
    action: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Setting(Table):
    """One value of the workspace."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]]
