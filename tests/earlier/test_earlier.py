"""What an earlier version made goes on working: a workspace in which people judged, and a run that was killed.

`workspace/` and `run/` were made by version 0.1.0 as it was on 2026-11-22, before its rooms were divided; the
database as SQL, so that a person can read it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from fastapi.testclient import TestClient
from sqlalchemy import select

from palate import cli
from palate.corpus.reading import read_rankings
from palate.feedback.export import datasets
from palate.feedback.store import people
from palate.feedback.store.tables import User
from palate.recipe import Data
from palate.studio.app import create_app, routes_of
from palate.studio.training import recipebook
from palate.studio.web.access import COOKIE
from palate.studio.web.workspace import Workspace

HERE = Path(__file__).parent
LOGGED = [json.loads(line) for line in (HERE / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    directory = tmp_path / "workspace"
    shutil.copytree(HERE / "workspace", directory)
    (directory / "secret").write_text("0" * 64)
    for folder in ("runs", "data"):
        (directory / folder).mkdir()
    database = sqlite3.connect(directory / "palate.db")
    database.executescript((directory / "palate.sql").read_text(encoding="utf-8"))
    database.close()
    opened = Workspace(directory)
    yield opened
    opened.store.close()


def test_every_page_of_an_earlier_workspace_opens(workspace: Workspace) -> None:
    app = create_app(workspace)
    assert workspace.store.is_current()
    with workspace.store.write() as session:
        ada = session.scalars(select(User).where(User.name == "Ada")).one()
        signed_in = people.open_session(session, ada)
    client = TestClient(app, cookies={COOKIE: signed_in.token}, headers={"accept": "text/html"})
    pages = [r.path for r in routes_of(app) if "GET" in r.methods and "{" not in r.path]
    assert len(pages) > 20
    for path in pages:
        response = client.get(path, follow_redirects=False)
        assert response.status_code < 500, path


def test_judgements_of_an_earlier_workspace_train(workspace: Workspace) -> None:
    workspace.store.upgrade()
    with workspace.store.read() as session:
        collected = datasets.collect(session, "rankings")
    made = datasets.write(workspace.directory, collected)
    rankings = read_rankings(Data(path=str(workspace.directory / made.path))).records
    assert len({ranking.labeler for ranking in rankings}) == 2
    assert {len(ranking.responses) for ranking in rankings} >= {2, 4}


def test_recipes_of_an_earlier_workspace_can_be_started(workspace: Workspace) -> None:
    found = recipebook.listing(workspace.recipes)
    assert len(found) == len(list((HERE / "workspace" / "recipes").glob("*.toml"))) > 5
    assert [recipe.name for recipe in found if recipe.problem] == []


def test_a_killed_run_of_an_earlier_version_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sft", "sft.toml", "--out", "run", "--resume"]) == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(6))
    assert rows[:2] == LOGGED[:2], "steps before the checkpoint are not done again"
    assert (Path("run") / "model" / "config.json").exists()


def test_a_recipe_that_was_changed_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sft", "sft.toml", "--out", "run", "--resume", "--set", "epochs=4"]) == 2
    assert "epochs: 3 is now 4" in capsys.readouterr().err


def test_a_run_resumes_when_a_key_is_newer_than_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the run were from before `max_length` existed."""
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    old = tomllib.loads(Path("run/recipe.toml").read_text())
    del old["max_length"]
    Path("run/recipe.toml").write_text(tomli_w.dumps(old))
    assert cli.main(["sft", "sft.toml", "--out", "run", "--resume"]) == 0
