"""Work that is handed out: batches, their items, and who has taken which."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from palate.feedback.store.tables.base import Table, new_id, one_of

BATCH_KINDS = ("ranking", "pair", "demonstration", "arena")
BATCH_STATES = ("open", "paused", "closed")
TASK_STATES = ("leased", "submitted", "skipped", "released")


class Batch(Table):
    """A pile of items to be judged alike.

    Attributes:
        overlap: how many people judge each item.
        per_labeler: at most this many items for one person; None means no limit.
        is_screening: its items have known answers, and who reaches ``threshold`` of agreement with them has passed.
        settings: of the screen: which flags are offered, whether ratings are asked for.
    """

    __tablename__ = "batches"
    __table_args__ = (
        one_of("kind", BATCH_KINDS),
        one_of("state", BATCH_STATES),
        CheckConstraint("overlap >= 1", name="overlap_positive"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(default="open")
    overlap: Mapped[int] = mapped_column(default=1)
    per_labeler: Mapped[int | None]
    lease_seconds: Mapped[float] = mapped_column(default=1800.0)
    is_screening: Mapped[bool] = mapped_column(default=False)
    threshold: Mapped[float | None]
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    round_number: Mapped[int | None] = mapped_column(ForeignKey("rounds.number"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[float]


class Item(Table):
    """A prompt with the K responses that are to be judged together (none for a demonstration).

    Attributes:
        gold: [K], the known ranks of a screening item.
        priority: higher comes first.
        open_places: judgements still wanted that nobody is at work on; the overlap less live tasks, never below zero.
    """

    __tablename__ = "items"
    __table_args__ = (
        Index("ix_items_next", "batch_id", "open_places", "priority", "position"),
        CheckConstraint("open_places >= 0", name="open_places_counted"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"))
    prompt_id: Mapped[str] = mapped_column(ForeignKey("prompts.id"))
    response_ids: Mapped[list[str]] = mapped_column(default=list)
    gold: Mapped[list[int] | None]
    priority: Mapped[float] = mapped_column(default=0.0)
    position: Mapped[int] = mapped_column(default=0)
    open_places: Mapped[int]


class ItemAuthor(Table):
    """Who wrote one of an item's texts, and is therefore not asked to judge it."""

    __tablename__ = "item_authors"

    item_id: Mapped[str] = mapped_column(ForeignKey("items.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)


class Task(Table):
    """One person's piece of work on one item: claimed with a lease, kept alive by its drafts, done once.

    Attributes:
        shown_order: [K], the index of the response shown in each place to this person.
        draft: what the screen last saved.
        is_surplus: submitted after the lease ran out and others had filled the item; kept, but not counted.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("item_id", "user_id", name="uq_tasks_item_user"),
        Index("ix_tasks_user_state", "user_id", "state"),
        Index("ix_tasks_lease", "state", "leased_until"),
        one_of("state", TASK_STATES),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    item_id: Mapped[str] = mapped_column(ForeignKey("items.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    state: Mapped[str] = mapped_column(default="leased")
    leased_until: Mapped[float]
    shown_order: Mapped[list[int]]
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    draft: Mapped[dict[str, Any] | None]
    draft_at: Mapped[float | None]
    skip_reason: Mapped[str | None]
    is_surplus: Mapped[bool] = mapped_column(default=False)
