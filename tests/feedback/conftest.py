"""A store on each database, and the few people and texts that every test of it needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.feedback.world import World
from tests.postgres import Server

from palate.feedback.store.database import Store


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "palate.db"
    store = Store(f"sqlite:///{path}")
    store.upgrade()
    store.close()
    return path


@pytest.fixture
def sqlite_url(migrated: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated, tmp_path / 'palate.db')}"


@pytest.fixture
def postgresql_url(postgres: Server) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a database with all tables and nothing in them."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        server: Server = request.getfixturevalue("postgres")
        with server.empty() as url:
            yield url


@contextmanager
def _opened(url: str) -> Iterator[Store]:
    store = Store(url)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with _opened(url) as store:
        yield store


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


@pytest.fixture
def sqlite_world(sqlite_url: str) -> Iterator[World]:
    with _opened(sqlite_url) as store:
        yield World(store)


@pytest.fixture
def postgresql_world(postgresql_url: str) -> Iterator[World]:
    with _opened(postgresql_url) as store:
        yield World(store)
