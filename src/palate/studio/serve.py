"""`palate init` and `palate studio`: make a workspace, and serve it, from one process or from several.

Run as a module it is one web process of several, which `supervisor` starts.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from palate.errors import DataError
from palate.feedback.store import people
from palate.studio import supervisor
from palate.studio.app import create_app
from palate.studio.training.jobs import Runner
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


def serve(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    https: bool = False,
    processes: int = 1,
    with_jobs: bool = True,
    cluster: str | None = None,
) -> None:
    """Serve a workspace until Ctrl-C.

    Args:
        processes: that answer at one address; with more than one another process holds the models for all of them.
        with_jobs: look after the workspace's jobs too; otherwise `work` does.
        cluster: that trains, in place of what the workspace says.

    Raises:
        DataError: no workspace there, the port is taken, or the processes end as soon as they are started.
    """
    workspace = Workspace(directory, cluster=cluster)
    workspace.store.upgrade()
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
    with listener:
        if processes == 1:
            _run(create_app(workspace, secure_cookies=https, with_jobs=with_jobs), listener)
        else:
            supervisor.supervise(workspace, listener, processes=processes, https=https, with_jobs=with_jobs)


def work(directory: Path, *, cluster: str | None = None) -> None:
    """Look after a workspace's jobs, and nothing else, until Ctrl-C; what runs then goes on, and is found again.

    Args:
        cluster: that trains, in place of what the workspace says.

    Raises:
        DataError: no workspace there.
    """
    workspace = Workspace(directory, cluster=cluster)
    workspace.store.upgrade()
    runner = Runner(workspace)
    with supervisor.told_to_stop() as stopped:
        runner.start()
        print(f"looking after the jobs of {workspace.directory}", flush=True)
        stopped.wait()
        runner.stop()
    workspace.store.close()


def _run(app: FastAPI, listener: socket.socket) -> None:
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


def _end_with_the_supervisor() -> None:
    """It keeps our standard input open as long as it lives, however it ends."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """One web process of several."""
    parser = argparse.ArgumentParser(prog="python -m palate.studio.serve", description="One web process of several.")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True, help="descriptor of the socket that all listen on")
    parser.add_argument("--hub", type=Path, required=True, help="socket of the process that holds the models")
    parser.add_argument("--https", action="store_true")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--no-jobs", action="store_true")
    arguments = parser.parse_args()
    threading.Thread(target=_end_with_the_supervisor, daemon=True).start()
    app = create_app(
        Workspace(arguments.workspace, cluster=arguments.cluster),
        secure_cookies=arguments.https,
        hub=arguments.hub,
        with_jobs=not arguments.no_jobs,
    )
    _run(app, socket.socket(fileno=arguments.listener))
    os._exit(0)  # at once: a usual exit would wait for the thread that reads


if __name__ == "__main__":
    main()
