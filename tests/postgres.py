"""A PostgreSQL server of our own for the tests: made in a private directory, reached by a socket in it, then removed.

    def test_it(postgres):
        with postgres.database() as url: ...

Nobody else can reach it, so it trusts whoever can. It runs as ``postgres`` where the tests run as root, which
PostgreSQL refuses. It does not wait for the disk, which no test takes away.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ACCOUNT = "postgres"
SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=200", "autovacuum=off")


class Server:
    """A running server.

    Args:
        directory: of its socket.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count(1)
        self._free: list[str] = []

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{ACCOUNT}@/{name}?host={self.directory}"

    def run(self, *statements: str, name: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(host=str(self.directory), user=ACCOUNT, dbname=name, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """The URL of a new database without tables."""
        name = self._create()
        try:
            yield self.url(name)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with Palate's tables and nothing in them (its counters may have run on)."""
        name = self._free.pop() if self._free else self._with_tables()
        try:
            yield self.url(name)
        finally:
            self._wipe(name)
            self._free.append(name)

    def _create(self) -> str:
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def _with_tables(self) -> str:
        from palate.feedback.store.database import Store

        name = self._create()
        store = Store(self.url(name))
        store.upgrade()
        store.close()
        return name

    def _wipe(self, name: str) -> None:
        """Emptied in milliseconds, where a new database takes tenths of a second."""
        from palate.feedback.store.tables import Table

        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        # as a replica, no trigger refuses and no foreign key is looked up
        tables = [f"DELETE FROM {table}" for table in Table.metadata.tables]
        self.run("SET session_replication_role = replica", *tables, name=name)


@contextmanager
def serving() -> Iterator[Server]:
    """Start a server, and stop it at the end; skips (or fails, with PALATE_REQUIRE_POSTGRES) where there is none."""
    programs = _programs()
    if programs is None:
        if os.environ.get("PALATE_REQUIRE_POSTGRES"):
            pytest.fail("PostgreSQL is not installed, and PALATE_REQUIRE_POSTGRES is set")
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="palate-pg-"))  # short: a socket's path has 107 characters at most
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(directory, ACCOUNT, ACCOUNT)
        account = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []}
    try:
        data = directory / "data"
        initdb = [programs / "initdb", "-D", data, "-U", ACCOUNT, "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([*initdb, "--locale=C.UTF-8"], check=True, capture_output=True, cwd=directory, **account)
        with _running([programs / "postgres", "-D", data, "-k", directory], directory, account):
            server = Server(directory)
            _wait(server)
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# The pipe to its standard input closes with us, however we end, and so the server never outlives the tests.
_SUPERVISE = '"$@" & read -r _; kill -INT $!; wait $!; rm -rf "$0"'


@contextmanager
def _running(command: Sequence[str | Path], directory: Path, account: dict[str, Any]) -> Iterator[None]:
    settings = [word for setting in SETTINGS for word in ("-c", setting)]
    supervised = ["sh", "-c", _SUPERVISE, directory, *command, *settings]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(supervised, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=directory, **account)
        try:
            yield
        finally:
            process.communicate(timeout=30)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests of a run."""
    with serving() as server:
        yield server


def _wait(server: Server) -> None:
    import psycopg

    for _ in range(200):
        with suppress(psycopg.OperationalError):
            return server.run("SELECT 1")
        time.sleep(0.05)
    pytest.fail(f"PostgreSQL did not start: {(server.directory / 'log').read_text(encoding='utf-8')}")


def _programs() -> Path | None:
    """Where the newest version's programs are: Debian keeps them off the path."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: float(path.parent.parent.name), default=None)
    found = newest or shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent
