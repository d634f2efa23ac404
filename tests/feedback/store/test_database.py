"""The store on both databases: tables from nothing, transactions, and a log that nothing can change."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, event, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from tests.feedback.world import NOW, World, together

from palate.errors import DataError, TooManyError
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Guideline, Item, Judgement, Setting, Table, User, fold_name


def test_migrations_make_exactly_the_tables(empty_url: str) -> None:
    store = Store(empty_url)
    assert not store.is_current()
    store.upgrade()
    assert store.is_current()
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
        checks = {
            (table, check["name"])
            for table in Table.metadata.tables
            for check in inspect(connection).get_check_constraints(table)
        }
    written = {
        (table.name, constraint.name)
        for table in Table.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    assert checks == written  # alembic does not compare these
    store.close()


def test_upgrading_again_changes_nothing(store: Store) -> None:
    with store.write() as session:
        session.add(Setting(key="name", value={"is": "kept"}))
    store.upgrade()
    with store.read() as session:
        assert session.get_one(Setting, "name").value == {"is": "kept"}


def test_two_processes_may_upgrade_at_once(empty_url: str) -> None:
    script = "import sys; from palate.feedback.store.database import Store; input(); Store(sys.argv[1]).upgrade()"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, empty_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate()[1] == b""
        assert process.returncode == 0
    store = Store(empty_url)
    assert store.is_current()
    store.close()


def test_opening_a_file_waits_for_who_is_writing_it(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # a lock that SQLite does not wait for when a file is switched to WAL
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    store = Store(f"sqlite:///{path}")
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    store.close()
    release.join()
    other.close()


def test_an_upgrade_that_fails_leaves_nothing(empty_url: str) -> None:
    store = Store(empty_url)

    def fail(*args: Any) -> None:
        if "CREATE TABLE judgements" in args[2]:
            raise KeyboardInterrupt

    event.listen(store.engine, "before_cursor_execute", fail)
    with pytest.raises(KeyboardInterrupt):
        store.upgrade()
    event.remove(store.engine, "before_cursor_execute", fail)
    assert inspect(store.engine).get_table_names() == []
    store.upgrade()
    assert store.is_current()
    store.close()


def test_tables_of_a_newer_version_are_left_alone(empty_url: str) -> None:
    store = Store(empty_url)
    store.upgrade()
    with store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not store.is_current()
    with pytest.raises(DataError, match="newer version of Palate"):
        store.upgrade()
    store.close()


CHANGES = {
    "update": "UPDATE judgements SET comment = 'changed'",
    "delete": "DELETE FROM judgements",
    "truncate": "TRUNCATE judgements CASCADE",
    "upsert": "INSERT INTO judgements (number, id, kind, record, user_id, quality, comment, consent, created_at) "
    "SELECT number, id, kind, record, user_id, quality, 'changed', consent, created_at FROM judgements "
    "WHERE true ON CONFLICT (number) DO UPDATE SET comment = 'changed'",
    "replace": "INSERT OR REPLACE INTO judgements (id, kind, record, user_id, quality, comment, consent, created_at) "
    "SELECT id, kind, record, user_id, quality, 'changed', consent, created_at FROM judgements",
}


def test_the_database_refuses_to_change_a_judgement(store: Store, world: World) -> None:
    ann = world.user("ann")
    world.add(Judgement(id="first", kind="ranking", record={}, user_id=ann.id, comment="as it was", created_at=NOW))
    for change in CHANGES.keys() - {"truncate" if store.is_sqlite else "replace"}:  # which the other one knows
        with pytest.raises(DBAPIError, match="judgements are append-only"), store.write() as session:
            session.execute(text(CHANGES[change]))
        with store.read() as session:
            assert session.scalars(select(Judgement.comment)).all() == ["as it was"]


def test_everything_or_nothing(store: Store) -> None:
    def half() -> None:
        with store.write() as session:
            session.add(Setting(key="half", value={}))
            session.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    with store.read() as session:
        assert session.get(Setting, "half") is None


def test_reading_cannot_write_and_does_not_spoil_the_connection(store: Store) -> None:
    sneaked_in = text("INSERT INTO settings (key, value) VALUES ('sneaked in', '{}')")
    with store.read() as session, pytest.raises(DBAPIError, match=r"read-?only"):
        session.execute(sneaked_in)
    with store.write() as session:
        assert session.get(Setting, "sneaked in") is None
        session.add(Setting(key="written", value={}))


def test_a_view_does_not_change_while_it_is_read(store: Store) -> None:
    with store.read() as before:
        assert before.scalars(select(Setting.key)).all() == []
        with store.write() as session:
            session.add(Setting(key="new", value={}))
        assert before.scalars(select(Setting.key)).all() == []
    with store.read() as after:
        assert after.scalars(select(Setting.key)).all() == ["new"]


def test_sqlite_writes_through_to_the_disk(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'palate.db'}")
    with store.engine.connect() as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        assert values == ["wal", 2]
    store.close()


def test_sqlite_writers_stand_in_line(sqlite_world: World) -> None:
    """SQLite itself refuses at once here: whoever waits has waited in our line."""
    store = sqlite_world.store
    event.listen(store.engine, "begin", lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=0"))

    def write() -> None:
        for _ in range(3):
            with store.write() as session:
                session.execute(update(Setting).values(value={}))
                time.sleep(0.003)

    together([write] * 10)


def test_the_line_is_not_endless(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.feedback.store.database.BUSY_SECONDS", 0.01)
    store = sqlite_world.store
    with store.write(), pytest.raises(TooManyError, match="busy"), store.write():
        pass
    with store.write() as session:
        session.add(Setting(key="free again", value={}))


def test_references_and_checks_hold(store: Store) -> None:
    for row in (
        Guideline(version=1, text="", author_id="nobody", created_at=NOW),
        User(name="king", role="king", password_hash="", created_at=NOW),
    ):
        with pytest.raises(IntegrityError), store.write() as session:
            session.add(row)


def test_text_may_hold_any_character(store: Store, world: World) -> None:
    ann = world.user("ann")
    strange = "a\0b \U0001f600 ‮ \x7f"
    world.add(Judgement(kind="ranking", record={"said": strange}, user_id=ann.id, comment=strange, created_at=NOW))
    with store.read() as session:
        line = session.scalars(select(Judgement)).one()
        assert line.record == {"said": strange.replace("\0", "�")}
        assert line.comment == strange.replace("\0", "�")


def test_nothing_is_stored_as_null(store: Store, world: World) -> None:
    """A JSON null would be neither NULL nor a value."""
    world.item(world.batch())
    with store.read() as session:
        assert session.scalars(select(Item).where(Item.gold.is_(None))).one().gold is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ann", "ANN"), ("Änne", "änne"), ("Strauß", "STRAUSS"), (" ann  lee ", "Ann Lee"), ("ａｎｎ", "ann")],
)
def test_names_that_look_alike_are_one(one: str, other: str) -> None:
    assert fold_name(one) == fold_name(other)


@pytest.mark.parametrize(
    "url", ["palate.db", "mysql://host/name", "sqlite://", "sqlite:///:memory:", "postgresql+no:///x"]
)
def test_what_is_no_database(url: str) -> None:
    with pytest.raises(DataError):
        Store(url)


def test_what_cannot_be_used(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("no database at all, but long enough to be taken for the header of one" * 9, encoding="utf-8")
    secret = "postgresql+psycopg://ann:hunter2@127.0.0.1:1/palate"
    for url in (f"sqlite:///{broken}", f"sqlite:///{tmp_path / 'no' / 'palate.db'}", secret):
        store = Store(url)
        with pytest.raises(DataError, match="cannot use the database") as caught:
            store.upgrade()
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)
        store.close()
