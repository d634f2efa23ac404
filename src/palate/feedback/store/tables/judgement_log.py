"""The append-only log of judgements, and what reviewers decided."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
)
from sqlalchemy.orm import Mapped, mapped_column

from palate.feedback.store.tables.base import Table, new_id, one_of

JUDGEMENT_KINDS = ("ranking", "demonstration", "thumb", "edit", "choice", "withdrawal")


class Judgement(Table):
    """One line of the append-only log: what one person said, with everything it was said about.

    Attributes:
        number: the order of the log.
        record: a `Ranking` or `Demonstration` as JSON; empty for a withdrawal.
        supersedes: id of the judgement that this one replaces or withdraws.
        quality: signals about how it was made: nudges shown and ignored, order left untouched, lateness.
        consent: may be used for training (always for assigned work, asked for in the chat).
    """

    __tablename__ = "judgements"
    __table_args__ = (one_of("kind", JUDGEMENT_KINDS),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True, default=new_id)
    kind: Mapped[str]
    record: Mapped[dict[str, Any]]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    task_id: Mapped[str | None] = mapped_column(ForeignKey("tasks.id"), index=True)
    item_id: Mapped[str | None] = mapped_column(ForeignKey("items.id"), index=True)
    message_id: Mapped[str | None] = mapped_column(ForeignKey("chat_messages.id"), index=True)
    supersedes: Mapped[str | None] = mapped_column(ForeignKey("judgements.id"), unique=True)
    guideline_version: Mapped[int | None] = mapped_column(ForeignKey("guidelines.version"))
    seconds: Mapped[float | None]
    quality: Mapped[dict[str, Any]] = mapped_column(default=dict)
    comment: Mapped[str] = mapped_column(default="")
    consent: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[float]


class Review(Table):
    """A reviewer's decision about an item on which labelers disagreed.

    Attributes:
        decision: "keep" everything, "discard" the item, or "settle" it by the reviewer's own ranking.
        judgement_id: that ranking, where it was settled.
    """

    __tablename__ = "reviews"
    __table_args__ = (CheckConstraint("decision IN ('keep', 'discard', 'settle')", name="decision_known"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    item_id: Mapped[str] = mapped_column(ForeignKey("items.id"), index=True)
    reviewer_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    decision: Mapped[str]
    note: Mapped[str] = mapped_column(default="")
    judgement_id: Mapped[str | None] = mapped_column(ForeignKey("judgements.id"))
    created_at: Mapped[float]
