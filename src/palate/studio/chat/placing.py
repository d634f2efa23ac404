"""Where the models of a workspace are, and who draws from them when it is this process."""

from __future__ import annotations

from collections.abc import Callable

from palate.studio.chat.generation import Generator
from palate.studio.web.workspace import Workspace


def locator(home: Workspace) -> Callable[[str], str]:
    """From a model's path in the database, which may be relative to the workspace, to where it is."""

    def locate(path: str) -> str:
        inside = home.directory / path
        return str(inside) if inside.is_dir() else path

    return locate


def generator_of(home: Workspace) -> Generator:
    """With the limits and the chat template that the workspace's settings say; its worker starts when it is needed."""
    settings = home.settings
    return Generator(
        max_streams=settings.chat_streams,
        max_per_user=settings.chat_streams_per_person,
        chat_templates={locator(home)(settings.model): home.chat_template} if home.chat_template else {},
    )
