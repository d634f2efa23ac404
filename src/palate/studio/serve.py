"""`palate init` and `palate studio`: make a workspace, and serve it."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import uvicorn

from palate.errors import DataError
from palate.feedback.store import people
from palate.studio.app import create_app
from palate.studio.training.recipebook import FIRST_STARTERS, write_starters
from palate.studio.web import workspace as workspaces
from palate.studio.web.workspace import Settings, Workspace


def create(directory: Path, settings: Settings | None = None) -> Workspace:
    """Make a workspace with its database and a starter set of recipes; what is there already stays.

    Raises:
        DataError: there is one already.
    """
    workspace = workspaces.create(directory, settings)
    write_starters(workspace.recipes, workspace.settings.model)
    return workspace


def init(directory: Path, *, database: str | None = None, name: str | None = None, model: str | None = None) -> None:
    """Make a workspace and say how to start it."""
    given = {"database": database, "name": name, "model": model}
    create(directory, Settings.model_validate({key: value for key, value in given.items() if value is not None}))
    print(f"made a workspace in {directory}\nstart it: palate studio --workspace {directory}")


def serve(directory: Path, *, host: str = "127.0.0.1", port: int = 8000, https: bool = False) -> None:
    """Serve a workspace until Ctrl-C.

    Raises:
        DataError: no workspace there, or the port is taken.
    """
    workspace = Workspace(directory)
    app = create_app(workspace, secure_cookies=https)
    new = write_starters(workspace.recipes, workspace.settings.model, given=FIRST_STARTERS)
    listener = _listen(host, port)
    address = f"{'https' if https else 'http'}://{host}:{listener.getsockname()[1]}"
    with workspace.store.write() as session:
        secret = people.first_link(session)
    print(f"Palate Studio  {address}", flush=True)
    if new:
        print(f"new recipes    {', '.join(new)}   (in {workspace.recipes}, for Runs)", flush=True)
    if secret is not None:
        print(f"first admin    {address}/join/{secret}   (works once, for a day)", flush=True)
    if not _is_loopback(host) and not https:
        print("others can reach this address over plain HTTP: put HTTPS before it and use --https", flush=True)
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise DataError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
