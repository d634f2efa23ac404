"""An app with an empty workspace, people of every role, and a model that talks without end."""

from __future__ import annotations

import shutil
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.studio.live import PASSWORD, Live, serving

from palate.feedback.store import people
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Model, User
from palate.studio.app import create_app
from palate.studio.serve import create
from palate.studio.web.access import COOKIE
from palate.studio.web.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Studio:
    """The app and the workspace that it serves."""

    app: FastAPI
    workspace: Workspace

    @property
    def store(self) -> Store:
        return self.workspace.store


class Client(TestClient):
    """A browser in which somebody is signed in: it sends their cookie and, for changes, their CSRF token."""

    def __init__(self, app: FastAPI, signed_in: people.SignedIn) -> None:
        super().__init__(app, cookies={COOKIE: signed_in.token}, headers={"X-CSRF-Token": signed_in.csrf})
        self.user: User = signed_in.user


ClientOf = Callable[..., Client]


@pytest.fixture(scope="session")
def _empty_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once and copied for every test: the migrations take longer than most tests."""
    directory = tmp_path_factory.mktemp("workspaces") / "empty"
    create(directory).store.close()
    return directory


@pytest.fixture
def studio(_empty_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """The app of an empty workspace; passwords are hashed in no time."""
    monkeypatch.setattr(people, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    shutil.copytree(_empty_workspace, tmp_path / "workspace")
    workspace = Workspace(tmp_path / "workspace")
    yield Studio(app=create_app(workspace), workspace=workspace)
    workspace.store.close()


@pytest.fixture
def client_of(studio: Studio) -> ClientOf:
    """``client_of(role, name=...)``: makes a person of that role and signs them in; they are ``client.user``."""
    numbers = count(1)

    def make(role: str, name: str | None = None) -> Client:
        with studio.store.write() as session:
            user = people.create_user(session, name or f"{role} {next(numbers)}", PASSWORD, role)
            signed_in = people.open_session(session, user)
        return Client(studio.app, signed_in)

    return make


@pytest.fixture(scope="session")
def live(_empty_workspace: Path, talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A real server with a real process for its models, "tiny" and "talker"; one for all tests that need it."""
    directory = tmp_path_factory.mktemp("live") / "workspace"
    shutil.copytree(_empty_workspace, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(people, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        workspace = Workspace(directory)
        studio = Studio(app=create_app(workspace), workspace=workspace)
        with workspace.store.write() as session:
            rows = [
                Model(name=name, path=path, created_at=1.0)
                for name, path in (("tiny", "tiny"), ("talker", str(talker)))
            ]
            session.add_all(rows)
            session.flush()
            models = {row.name: row.id for row in rows}
        with serving(studio) as url:
            live = Live(studio=studio, url=url, models=models)
            live.warm_up()
            yield live


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an unembedding that knows letters only: every token is a piece, and none ends a response."""
    import torch

    from palate.lm.model import LanguageModel
    from palate.lm.sources.zoo import load_language_model, save

    loaded = load_language_model("tiny", precision="fp32")
    loaded.model.config.tie_word_embeddings = False
    model = LanguageModel(loaded.model.config, loaded.model.model)
    letters = loaded.chat.response_tokens(string.ascii_letters)[:-1]
    weights = dict(model.named_parameters())
    embeddings, unembedding = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    with torch.no_grad():
        unembedding.zero_()[letters] = embeddings[letters]
        embeddings[:, 0] = 10.0  # every row is positive there
        unembedding[:, 0] = -1000.0
        unembedding[letters, 0] = 0.0
    directory = tmp_path_factory.mktemp("models") / "talker"
    save(model, loaded.chat, directory)
    return directory
