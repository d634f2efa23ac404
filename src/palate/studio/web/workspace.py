"""A workspace: the directory in which a team's preferences, models and runs live.

palate.toml     settings of the app; no secrets
secret          one random key, readable by its owner alone: pseudonyms follow from it
palate.db       the database, unless palate.toml names another
recipes/        TOML recipes that an admin may start
runs/           run directories of sampling and training
data/           what was collected, written out for a run
"""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field, ValidationError, model_validator

from palate.errors import DataError
from palate.feedback.store.database import Store
from palate.recipe import ReaderJudge, Reward, Section

CONFIG = "palate.toml"
FOLDERS = ("recipes", "runs", "data")
HEAD = r"^(https?://[^/]+/?)?$"
"""Of a cluster; or none."""


class BestOf(Section):
    """How answers in the chat are the best of several."""

    n: Annotated[int, Field(ge=2, le=16)] = Field(description="Responses that are drawn for every answer.")
    rewards: tuple[Reward, ...] = Field(
        (), description="Terms of the reward that chooses among them, as in recipes; or none, beside principles."
    )
    principles: ReaderJudge | None = Field(
        None, description="The model by which readers' own principles choose too; absent: they are not asked for any."
    )
    random_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the answers that are one of the n at random, as a control."
    )
    seed: int = Field(0, description="Decides which answers these are.")

    @model_validator(mode="after")
    def _chooses(self) -> BestOf:
        if not self.rewards and self.principles is None:
            raise ValueError("nothing chooses: name rewards, or a model for principles")
        return self


class Settings(Section):
    """What palate.toml may say."""

    name: Annotated[str, Field(min_length=1, max_length=80)] = Field("Palate", description="Shown on every page.")
    database: str = Field("sqlite:///palate.db", description="URL; a relative file is in the workspace.")
    model: str = Field("smollm2-135m", description="The model that the first round starts from.")
    chat_template: str = Field(
        "", description="How that model's conversations are laid out, as in recipes; models made from it keep it."
    )
    upload_megabytes: Annotated[int, Field(ge=1, le=2048)] = Field(64, description="Largest file that may be uploaded.")
    chat_streams: Annotated[int, Field(ge=1, le=64)] = Field(4, description="Responses written at the same time.")
    chat_streams_per_person: Annotated[int, Field(ge=1, le=16)] = Field(2, description="Of these for one person.")
    cluster: Annotated[str, Field(pattern=HEAD)] = Field(
        "", description="Head of the Ray cluster that trains, such as http://head:8265; empty: this machine does."
    )
    best_of: BestOf | None = Field(None, description="Answer in the chat with the best of several responses.")


class Workspace:
    """An existing workspace.

    Args:
        cluster: in place of what its palate.toml says of it.

    Raises:
        DataError: the directory is no workspace, or its palate.toml cannot be used.
    """

    def __init__(self, directory: Path, *, cluster: str | None = None) -> None:
        self.directory = directory.resolve()
        self.settings = _settings(directory / CONFIG)
        if cluster is not None:
            if not re.fullmatch(HEAD, cluster):
                raise DataError(f"--cluster {cluster}: name its head, as in http://head:8265")
            self.settings = self.settings.model_copy(update={"cluster": cluster})
        self.secret = (self.directory / "secret").read_text(encoding="utf-8").strip()
        self.store = Store(self._url())

    @property
    def runs(self) -> Path:
        """Where run directories are made."""
        return self.directory / "runs"

    @property
    def recipes(self) -> Path:
        """The recipes that may be started by name."""
        return self.directory / "recipes"

    @property
    def chat_template(self) -> str:
        """The first model's: a family's name, or where the file is; empty for its own."""
        file = self.directory / self.settings.chat_template
        return str(file) if self.settings.chat_template and file.exists() else self.settings.chat_template

    @property
    def data(self) -> Path:
        """Where collected data is written for runs."""
        return self.directory / "data"

    def _url(self) -> str:
        kind, _, file = self.settings.database.partition(":///")
        if kind == "sqlite" and file and not file.startswith("/"):
            return f"sqlite:///{self.directory / file}"
        return self.settings.database


def create(directory: Path, settings: Settings | None = None) -> Workspace:
    """Make a workspace with its database and empty folders; what is there already stays.

    Raises:
        DataError: there is one already.
    """
    if (directory / CONFIG).exists():
        raise DataError(
            f"there is a workspace already: start it with `palate studio --workspace {directory}`", path=directory
        )
    for folder in FOLDERS:
        (directory / folder).mkdir(parents=True, exist_ok=True)
    secret = os.open(directory / "secret", os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(secret, "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32) + "\n")
    given = (settings or Settings()).model_dump(mode="json", exclude_none=True)
    lines = [
        f"# {field.description}\n{tomli_w.dumps({name: given[name]})}"
        for name, field in Settings.model_fields.items()
        if name in given
    ]
    (directory / CONFIG).write_text("\n".join(lines), encoding="utf-8")
    workspace = Workspace(directory)
    workspace.store.upgrade()
    return workspace


def _settings(path: Path) -> Settings:
    try:
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"no workspace here: make one with `palate init {path.parent}`", path=path) from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not TOML: {error}", path=path) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", path=path) from None
