"""What people see: guidelines, prompts, responses, and the models that answer."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
)
from sqlalchemy.orm import Mapped, mapped_column

from palate.feedback.store.tables.base import Table, new_id


class Guideline(Table):
    """One version of the instructions; the newest applies."""

    __tablename__ = "guidelines"

    version: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    author_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[float]


class Model(Table):
    """A model that can answer, judge or be trained from: a directory or a name of the zoo."""

    __tablename__ = "models"
    __table_args__ = (CheckConstraint("kind IN ('policy', 'reward')", name="kind_known"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    path: Mapped[str]
    kind: Mapped[str] = mapped_column(default="policy")
    created_at: Mapped[float]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    round_number: Mapped[int | None] = mapped_column(ForeignKey("rounds.number"))


class PromptRow(Table):
    """A `palate.records.Prompt`; its id is the record's own."""

    __tablename__ = "prompts"

    id: Mapped[str] = mapped_column(primary_key=True)
    record: Mapped[dict[str, Any]]
    source: Mapped[str] = mapped_column(default="")
    created_at: Mapped[float]


class ResponseRow(Table):
    """A `palate.records.Response` to a prompt, by a model or a person."""

    __tablename__ = "responses"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("prompts.id"), index=True)
    record: Mapped[dict[str, Any]]
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    author_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[float]
