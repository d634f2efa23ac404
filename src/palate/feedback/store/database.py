"""The store: one database behind everything people do, SQLite by default, PostgreSQL by URL.

`read` and `write` are transactions in a session of their own. A write transaction on SQLite takes the write lock with
its first statement, so that what it has read cannot change before it writes. PostgreSQL locks rows: those it changes,
and those that `queue` and `people` ask it to lock because a decision hangs on them. One thing a person does is one
transaction; two people's in one could wait for each other.

SQLite lets one write at a time and has the others ask again and again, which starves some of them when there are many.
Within a process they therefore stand in line for a lock of ours; only other processes poll.

A judgement is on disk when `write` has ended: SQLite runs in WAL mode with `synchronous=FULL`.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from palate.errors import DataError, MissingExtraError, TooManyError

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30

_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class Store:
    """A database at a URL; nothing is opened before it is used.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/NAME``.

    Raises:
        DataError: the URL is not one of these.
        MissingExtraError: the database's driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = _parsed(url)
        self.engine = _sqlite(self.url) if self.is_sqlite else _postgres(self.url)
        self._line = threading.Lock()
        self._reading = self.engine.execution_options(**(_SQLITE_READS if self.is_sqlite else _POSTGRES_READS))

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of SQLite's."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; the database refuses to write in it."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: everything in it happens, or nothing if an exception leaves it.

        Raises:
            TooManyError: others have been writing for too long.
        """
        with self._turn(), Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def upgrade(self, revision: str = "head") -> None:
        """Bring the tables to this version of Palate, or to a ``revision``; an empty database gets all of them.

        Raises:
            DataError: the database cannot be used, or a newer version of Palate made it.
        """
        try:
            command.upgrade(self._config(), revision)
        except DBAPIError as error:
            raise DataError(f"cannot use the database {self.url!r}: {_first_line(error)}") from None
        except CommandError:
            raise DataError(f"a newer version of Palate made {self.url!r}: install that one") from None

    def is_current(self) -> bool:
        """Whether the tables are those of this version of Palate."""
        head = ScriptDirectory.from_config(self._config()).get_current_head()
        with self._reading.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head

    def close(self) -> None:
        """Return every connection."""
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._line.acquire(timeout=BUSY_SECONDS):
            raise TooManyError("the database is busy: try again in a moment")
        try:
            yield
        finally:
            self._line.release()

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["engine"] = self.engine
        return config


_SQLITE_READS: dict[str, Any] = {"palate_reads": True}
_POSTGRES_READS: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DataError("that is no database URL: try sqlite:///palate.db") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise DataError(f"{parsed!r}: the database is sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise DataError("what people say is kept in a file: give one, as in sqlite:///palate.db")
    return parsed


def _postgres(url: URL) -> Engine:
    try:
        return create_engine(
            url,
            pool_size=10,
            max_overflow=30,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            json_serializer=_json_without_nul,
        )
    except NoSuchModuleError:
        raise DataError(f"{url!r}: use the driver psycopg, as in postgresql+psycopg://USER@HOST/NAME") from None
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "psycopg", "postgres") from None


def _json_without_nul(value: Any) -> str:
    """PostgreSQL stores an escaped NUL in JSON and then fails to look into it; SQLite keeps the same text."""
    return _ESCAPED_NUL.sub(r"\1\\ufffd", json.dumps(value))


def _sqlite(url: URL) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=10,
        max_overflow=30,
        connect_args={"timeout": BUSY_SECONDS},
        json_serializer=_json_without_nul,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    _switch_to_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait when two connections switch a new file at once: whoever comes second tries again."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("palate_reads", False)
    connection.exec_driver_sql(f"PRAGMA query_only={int(reads)}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
