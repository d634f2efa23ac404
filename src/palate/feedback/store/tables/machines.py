"""Rounds of the loop and the jobs in them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ForeignKey,
)
from sqlalchemy.orm import Mapped, mapped_column

from palate.feedback.store.tables.base import Table, new_id, one_of

JOB_STATES = ("queued", "running", "done", "failed", "cancelled")


class Round(Table):
    """One turn of the loop: from a policy through judgements to the next policy.

    Attributes:
        policy_id: the model it starts from; no foreign key, since models point at rounds.
    """

    __tablename__ = "rounds"

    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="")
    policy_id: Mapped[str | None]
    created_at: Mapped[float]
    closed_at: Mapped[float | None]


class Job(Table):
    """A process of its own: sampling, training or evaluation from a named recipe.

    Attributes:
        recipe: the TOML it runs.
        directory: its run directory, relative to the workspace.
        pid, process_started: which process, so that another one with the same number is not taken for it.
        cluster: address of the head of the Ray cluster that it was sent to; None: it runs beside the app.
        submission: its name there.
        then: what is to be done with what it made.
    """

    __tablename__ = "jobs"
    __table_args__ = (one_of("state", JOB_STATES),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    stage: Mapped[str]
    recipe: Mapped[str]
    directory: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(default="queued", index=True)
    pid: Mapped[int | None]
    process_started: Mapped[float | None]
    cluster: Mapped[str | None]
    submission: Mapped[str | None]
    message: Mapped[str] = mapped_column(default="")
    then: Mapped[dict[str, Any]] = mapped_column(default=dict)
    round_number: Mapped[int | None] = mapped_column(ForeignKey("rounds.number"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]
