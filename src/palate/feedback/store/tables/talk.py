"""Conversations and their messages."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from palate.feedback.store.tables.base import Table, new_id


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
