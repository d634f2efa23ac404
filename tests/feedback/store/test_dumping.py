"""Every row of a database as lines and back, from either kind of database to either."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from tests.feedback.world import World
from tests.postgres import Server

from palate.errors import DataError
from palate.feedback.store import dumping
from palate.feedback.store.database import Store
from palate.feedback.store.dumping import Dump
from palate.feedback.store.tables import Job, Judgement, Model, Setting, Table, User

Lines = dict[str, list[str]]


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database to restore to."""
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'other.db'}"
        if request.param == "postgresql":
            server: Server = request.getfixturevalue("postgres")
            url = stack.enter_context(server.empty())
        store = Store(url)
        stack.callback(store.close)
        yield store


def lines_of(store: Store) -> tuple[str, Lines]:
    found: list[tuple[str, Lines]] = []

    def take(dump: Dump) -> None:
        found.append((dump.revision, {name: list(lines) for name, lines in dump.tables}))

    dumping.dumped(store, take)
    return found[0]


def inhabit(world: World) -> None:
    """Rows of many kinds: corrections of corrections, a model before its parent, nothing, numbers and umlauts."""
    ann, bob = world.user("Ann"), world.user("Zoë \U0001f98a")
    world.item(world.batch(overlap=2))
    first = world.submit(world.claimed(ann))
    second = world.claimed(bob)
    world.withdraw(ann, first)
    world.submit(second, ranks=(1, 1, 2), seconds=60 + 0.1 + 0.2)
    world.add(Model(id="z-parent", name="parent", path="runs/a", created_at=1.0))
    world.add(Model(id="a-child", name="child", path="runs/b", created_at=2.0, parent_id="z-parent"))
    world.add(Model(id="0-grandchild", name="grandchild", path="runs/c", created_at=3.0, parent_id="a-child"))
    world.add(Setting(key="deep", value={"a": [1, None, {"b": "\\u0000 as text"}], "c": 1e-300}))
    world.add(
        Job(name="j", stage="sft", recipe="seed = 1\n", directory="runs/j", created_at=0.1, state="running", pid=7)
    )


def rows(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Everything, as the app itself reads it."""
    with store.read() as session:
        return {
            name: [dict(row) for row in session.execute(select(table).order_by(*table.primary_key)).mappings()]
            for name, table in Table.metadata.tables.items()
        }


def test_what_is_restored_is_what_was_there_whichever_the_databases(world: World, other: Store) -> None:
    inhabit(world)
    revision, lines = lines_of(world.store)
    counted = dumping.restore(other, revision, lines)
    before = rows(world.store)
    assert rows(other) == before
    assert counted == {name: len(found) for name, found in before.items()}
    assert counted["judgements"] == 3
    assert other.is_current()
    for store in (world.store, other):  # nothing is nothing, and not JSON's null, which the app reads as the same
        with store.read() as session:
            assert session.execute(text("SELECT count(*) FROM items WHERE gold IS NULL")).scalar() == 1


def test_work_goes_on_in_what_was_restored(world: World, other: Store) -> None:
    """PostgreSQL's own counter would give the next judgement a number that is taken."""
    inhabit(world)
    dumping.restore(other, *lines_of(world.store))
    later = World(other)
    later.item(later.batch("later", overlap=1), 9)
    with other.read() as session:
        ann = session.scalars(select(User).where(User.name == "Ann")).one()
        numbers = session.scalars(select(Judgement.number)).all()
    made = later.submit(later.claimed(ann))
    assert made.number == max(numbers) + 1


def test_a_dump_is_of_one_moment(world: World) -> None:
    """What is written after it began is not in it, nor half of it."""
    inhabit(world)
    before = rows(world.store)
    seen: Lines = {}

    def take(dump: Dump) -> None:
        for name, lines in dump.tables:
            writer = threading.Thread(target=lambda at=name: World(world.store).user(f"late, at {at}"))
            writer.start()
            writer.join()
            seen[name] = list(lines)

    dumping.dumped(world.store, take)
    assert {name: len(lines) for name, lines in seen.items()} == {name: len(found) for name, found in before.items()}
    assert not any("late, at" in line for line in seen["users"])


def test_a_database_with_rows_is_left_as_it_is(world: World, other: Store) -> None:
    inhabit(world)
    dump = lines_of(world.store)
    other.upgrade()
    mine = World(other).user("Mine")
    with pytest.raises(DataError, match=r"there are users in the database .* already: give an empty one"):
        dumping.restore(other, *dump)
    with other.read() as session:
        assert session.scalars(select(User.id)).all() == [mine.id]


def test_a_row_that_cannot_be_leaves_no_row(world: World, other: Store) -> None:
    inhabit(world)
    revision, lines = lines_of(world.store)
    orphan = json.loads(lines["models"][0]) | {"id": "orphan", "parent_id": "nobody"}
    with pytest.raises(DataError, match="rows of models name others that are not there: nobody"):
        dumping.restore(other, revision, lines | {"models": [*lines["models"], json.dumps(orphan)]})
    assert {name: len(found) for name, found in rows(other).items()} == dict.fromkeys(Table.metadata.tables, 0)
    dumping.restore(other, revision, lines)  # the tables are there and empty: it can be tried again


def test_a_table_that_its_version_does_not_have_is_not_dropped_in_silence(world: World, other: Store) -> None:
    revision, lines = lines_of(world.store)
    with pytest.raises(DataError, match="the backup has secrets, which its version of the tables does not"):
        dumping.restore(other, revision, lines | {"secrets": ["{}"]})


def test_tables_are_made_as_they_were_and_then_brought_to_this_version(
    world: World, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    inhabit(world)
    asked: list[tuple[str, int]] = []
    real = Store.upgrade

    def upgrade(store: Store, revision: str = "head") -> None:
        real(store, revision)
        asked.append((revision, len(rows(store)["users"])))

    monkeypatch.setattr(Store, "upgrade", upgrade)
    dumping.restore(other, *lines_of(world.store))
    assert asked == [("0002", 0), ("head", 2)]


def test_a_newer_versions_dump_is_refused(world: World, other: Store) -> None:
    with pytest.raises(DataError, match="newer version of Palate"):
        dumping.restore(other, "9999", lines_of(world.store)[1])


def test_nothing_to_dump_is_said(other: Store) -> None:
    with pytest.raises(DataError, match="there is nothing in the database"):
        lines_of(other)
