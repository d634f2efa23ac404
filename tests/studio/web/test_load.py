"""Several labelers at once through real HTTP, and something that is killed in the middle: the benchmark, in short."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.postgres import serving

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "studio_load.py"


@pytest.fixture(scope="module")
def studio_load() -> Any:
    spec = importlib.util.spec_from_file_location("studio_load", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["studio_load"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_when_the_server_is_killed(
    kind: str, studio_load: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"labelers": 5, "seconds": 6.0, "kill": "server", "think": (0.1, 0.4)}
    if kind == "sqlite":
        figures = studio_load.run(tmp_path / "workspace", **how)
    else:
        with request.getfixturevalue("postgres").empty() as url:
            figures = studio_load.run(tmp_path / "workspace", database=url, **how)
    assert figures["wrong"] == []
    assert figures["submitted"] > 0
    assert figures["lost_connections"] > 0, "the server was not killed while they worked"


@pytest.mark.parametrize("kill", ["process", "database"])
def test_nothing_is_lost_where_there_are_several_processes(
    kill: str, studio_load: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PostgreSQL is one of our own: the others would lose their connections too."""
    with serving() as server, server.empty() as url:
        how: dict[str, Any] = {"labelers": 6, "seconds": 8.0, "kill": kill, "think": (0.1, 0.4), "processes": 2}
        figures = studio_load.run(tmp_path / "workspace", database=url, **how)
    assert figures["wrong"] == []
    assert figures["submitted"] > 0
    said = capfd.readouterr().err
    if kill == "process":  # between two requests of its own, perhaps: then nobody notices
        assert "was ended by SIGKILL; another one is started" in said
    else:  # between two requests of all of them, perhaps: then what else asks it has noticed
        assert figures["come_again"] > 0 or "OperationalError" in said, "the database was not killed while they worked"
