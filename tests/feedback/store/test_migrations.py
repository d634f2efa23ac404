"""Migrations make today what they made when they were released: databases out there were made by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from palate.feedback.store.database import Store

RELEASED = Path(__file__).parent / "schemas"

SQLITE = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version' ORDER BY type, name"
POSTGRESQL = {
    "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
    "WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY table_name, ordinal_position",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace AND contype <> 'n' "  # newer servers list NOT NULL as well
    "AND conrelid::regclass::text <> 'alembic_version' ORDER BY 1, 2",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes "
    "WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
}


def schema(store: Store) -> dict[str, Any]:
    """Everything that a database says of its own tables."""
    queries = {"master": SQLITE} if store.is_sqlite else POSTGRESQL
    with store.engine.connect() as connection:
        return {name: [list(row) for row in connection.execute(text(query))] for name, query in queries.items()}


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_a_migration_makes_what_it_made_when_it_was_released(revision: str, empty_url: str) -> None:
    store = Store(empty_url)
    command.upgrade(store._config(), revision)
    kind = "sqlite" if store.is_sqlite else "postgresql"
    made = schema(store)
    store.close()
    assert made == json.loads((RELEASED / f"{revision}_{kind}.json").read_text(encoding="utf-8"))
