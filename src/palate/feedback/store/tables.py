"""The tables of a workspace.

    people       User Login Invitation Token Attempt
    material     Guideline PromptRow ResponseRow Model
    work         Batch Item ItemAuthor Task
    the log      Judgement (append-only), Review
    machines     Job Round
    chat         Conversation ChatMessage
    the rest     Event Setting

Times are seconds since 1970 (UTC). Ids that reach a browser are random, so that none can be guessed or counted.
A judgement holds the whole record it speaks of (prompt, responses, provenance), so the log alone is the data; the
database refuses to change or delete one. What the tables allow is enforced here (unique keys, foreign keys, checks);
what people may do with them is the business of `queue`, `people` and `judgements`.
"""

from __future__ import annotations

import secrets
import unicodedata
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROLES = ("admin", "researcher", "reviewer", "labeler", "chat")
BATCH_KINDS = ("ranking", "pair", "demonstration", "arena")
BATCH_STATES = ("open", "paused", "closed")
TASK_STATES = ("leased", "submitted", "skipped", "released")
JUDGEMENT_KINDS = ("ranking", "demonstration", "thumb", "edit", "choice", "withdrawal")
JOB_STATES = ("queued", "running", "done", "failed", "cancelled")


def new_id() -> str:
    """16 characters nobody can guess."""
    return secrets.token_urlsafe(12)


def fold_name(name: str) -> str:
    """What two spellings of one name have in common: case, width and spaces do not make another person."""
    return unicodedata.normalize("NFKC", " ".join(name.split())).casefold()


def _folded(context: DefaultExecutionContext) -> str:
    return fold_name(context.get_current_parameters()["name"])  # type: ignore[no-untyped-call]


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def without_nul(text: str) -> str:
    """NUL replaced by the character for what cannot be shown."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


class PlainText(TypeDecorator[str]):
    """Text without NUL, which PostgreSQL cannot hold and a model may well write."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace NUL."""
        return None if value is None else without_nul(value)


_JSON = JSON(none_as_null=True)


class Table(DeclarativeBase):
    """What every table shares: names for all constraints, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: PlainText,
        float: Double,
        dict[str, Any]: _JSON,
        list[str]: _JSON,
        list[int]: _JSON,
    }


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
    __table_args__ = (_one_of("role", ROLES),)

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
    __table_args__ = (_one_of("role", ROLES),)

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
        _one_of("kind", BATCH_KINDS),
        _one_of("state", BATCH_STATES),
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
        _one_of("state", TASK_STATES),
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
    __table_args__ = (_one_of("kind", JUDGEMENT_KINDS),)

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
        then: what is to be done with what it made.
    """

    __tablename__ = "jobs"
    __table_args__ = (_one_of("state", JOB_STATES),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    stage: Mapped[str]
    recipe: Mapped[str]
    directory: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(default="queued", index=True)
    pid: Mapped[int | None]
    process_started: Mapped[float | None]
    message: Mapped[str] = mapped_column(default="")
    then: Mapped[dict[str, Any]] = mapped_column(default=dict)
    round_number: Mapped[int | None] = mapped_column(ForeignKey("rounds.number"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]


class Conversation(Table):
    """One person's chat with one model."""

    __tablename__ = "conversations"
    __table_args__ = (Index("ix_conversations_user", "user_id", "updated_at"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    title: Mapped[str] = mapped_column(default="")
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[float]
    updated_at: Mapped[float]
    deleted_at: Mapped[float | None]


class ChatMessage(Table):
    """A turn; the assistant's may have several variants at one position, of which one is continued.

    Attributes:
        position: of the turn in the conversation, from 0.
        variant: 0 for the first answer, then one for every regeneration or second answer.
        is_chosen: the variant that the conversation goes on with.
        state: "streaming", "done", "stopped" or "failed"; "replaced" once the owner has worded the message anew.
    """

    __tablename__ = "chat_messages"
    __table_args__ = (UniqueConstraint("conversation_id", "position", "variant", name="uq_chat_messages_place"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id"), index=True)
    position: Mapped[int]
    variant: Mapped[int] = mapped_column(default=0)
    role: Mapped[str]
    content: Mapped[str]
    state: Mapped[str] = mapped_column(default="done")
    is_chosen: Mapped[bool] = mapped_column(default=True)
    provenance: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]


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
