"""What all tables share: ids, texts, names of constraints."""

from __future__ import annotations

import secrets
import unicodedata
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Dialect,
    Double,
    MetaData,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase


def new_id() -> str:
    """16 characters nobody can guess."""
    return secrets.token_urlsafe(12)


def fold_name(name: str) -> str:
    """What two spellings of one name have in common: case, width and spaces do not make another person."""
    return unicodedata.normalize("NFKC", " ".join(name.split())).casefold()


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


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A column that holds one of these words."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")
