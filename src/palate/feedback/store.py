"""The store: one database behind everything people do, SQLite by default, PostgreSQL by URL.

`read` and `write` are transactions in a session of their own. A write transaction on SQLite takes the write lock at
its start, so that what it has read cannot change before it writes; PostgreSQL locks the rows that are updated. What
must never happen twice is therefore an update that says what it expects (`queue.claim`), and works alike on both.

A judgement is on disk when `write` has ended: SQLite runs in WAL mode with `synchronous=FULL`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from palate.errors import DataError

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30


class Store:
    """A database at a URL.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/NAME``.

    Raises:
        DataError: the URL is not one, or the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
            self.engine = _engine(url, sqlite=self.url.get_backend_name() == "sqlite")
        except (ArgumentError, NoSuchModuleError) as error:
            raise DataError(f"not a database URL: {url!r} ({error}); try sqlite:///palate.db") from None

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of SQLite's."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; nothing is written."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: everything in it happens, or nothing if an exception leaves it."""
        with Session(self.engine, expire_on_commit=False) as session:
            if self.is_sqlite:
                session.connection().exec_driver_sql("BEGIN IMMEDIATE")
            yield session
            session.commit()

    def upgrade(self) -> None:
        """Bring the tables to this version of Palate; an empty database gets all of them."""
        try:
            command.upgrade(self._config(), "head")
        except DBAPIError as error:
            raise DataError(f"cannot use the database {self.url!r}: {_first_line(error)}") from None

    def is_current(self) -> bool:
        """Whether the tables are those of this version of Palate."""
        head = ScriptDirectory.from_config(self._config()).get_current_head()
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head

    def close(self) -> None:
        """Return every connection."""
        self.engine.dispose()

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["engine"] = self.engine
        return config


def _engine(url: str, *, sqlite: bool) -> Engine:
    if not sqlite:
        return create_engine(url, pool_size=10, max_overflow=30, pool_pre_ping=True)
    engine = create_engine(
        url, poolclass=QueuePool, pool_size=10, max_overflow=30, connect_args={"timeout": BUSY_SECONDS}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where `write` says, not where the driver guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
