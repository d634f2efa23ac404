"""Several web processes at one address, and the one that holds the models for all of them (`chat.hub`).

All web processes listen on the same socket, and the system gives a connection to whichever is free; a process that dies
takes its own requests with it and no connection that waits. Nothing is kept in a process that another one needs: who is
signed in, how often a password was wrong, tasks and jobs are in the database, and answers that are being written are
the hub's to know. One of the web processes looks after the jobs, and another does when it is gone (`training.jobs`).

A process that ends is started again. What a web process was writing when it died is closed here, with what was kept of
it. Children live no longer than this process: their standard input ends with it.

SQLite serves several processes as well as one, but lets only one of them write at a time: they are for PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from palate.errors import PalateError
from palate.feedback.chat import exchanges
from palate.feedback.store.tables import Conversation
from palate.studio.chat.hub import Client
from palate.studio.web.monitoring import SHARED
from palate.studio.web.workspace import Workspace

LOOK_EVERY = 0.2
SETTLE_SECONDS = 1.0
"""Between two looks at what nobody writes any more: a process that has just ended an answer is about to say so."""

EARLY_SECONDS = 10.0
"""A process that ends sooner after its start did not serve anybody."""

MOST_EARLY = 5
"""So many early ends in a row are no accident."""

END_SECONDS = 15.0
"""A process that was asked to end and has not is killed."""


class HopelessError(PalateError):
    """Processes end as soon as they are started."""


@dataclass(slots=True, kw_only=True)
class Child:
    """A process that is started again whenever it ends.

    Attributes:
        early: how often in a row it ended early.
    """

    name: str
    command: list[str]
    descriptors: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)
    started: float = 0.0
    early: int = 0

    def start(self) -> None:
        """In a session of its own: Ctrl-C in a terminal is for the supervisor, which then ends the others."""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            pass_fds=self.descriptors,
            env=os.environ | self.environment,
            start_new_session=True,
        )

    def ended(self) -> bool:
        """Whether it has, which is told."""
        status = self.process.poll()
        if status is None:
            return False
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        print(f"{self.name} ({self.process.pid}) {how}; another one is started", file=sys.stderr, flush=True)
        self.early = self.early + 1 if time.monotonic() < self.started + EARLY_SECONDS else 0
        self.ask_to_end()
        return True

    def ask_to_end(self) -> None:
        """Close its input, upon which it ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> None:
        """Wait until it has ended, as it was asked to; kill it if it does not."""
        self.ask_to_end()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def supervise(
    workspace: Workspace, listener: socket.socket, *, processes: int, https: bool, with_jobs: bool = True
) -> None:
    """Serve a workspace from several processes until SIGINT or SIGTERM.

    Args:
        listener: a socket that listens.
        https: cookies are for HTTPS alone.
        with_jobs: one of them looks after the workspace's jobs.

    Raises:
        HopelessError: a process ends as soon as it is started, again and again; the others are ended too.
    """
    with workspace.store.write() as session:
        exchanges.reconcile(session)  # nobody writes yet
    with tempfile.TemporaryDirectory(prefix="palate-") as private, told_to_stop() as stopped:
        path = Path(private) / "hub"
        python = [sys.executable, "-P", "-m"]
        home = ["--workspace", str(workspace.directory)]
        hub = Child(
            name="the models' process", command=[*python, "palate.studio.chat.hub", *home, "--socket", str(path)]
        )
        web = ["palate.studio.serve", *home, "--listener", str(listener.fileno()), "--hub", str(path)]
        web += ["--cluster", workspace.settings.cluster]
        children = [
            Child(
                name=f"web process {number}",
                command=[*python, *web, *(["--https"] if https else []), *([] if with_jobs else ["--no-jobs"])],
                descriptors=(listener.fileno(),),
                environment={SHARED: private},
            )
            for number in range(1, processes + 1)
        ]
        started: list[Child] = []
        try:
            for child in (hub, *children):
                child.start()
                started.append(child)
            while not stopped.wait(LOOK_EVERY):
                _keep([hub])
                if _keep(children):
                    close_what_nobody_writes(workspace, Client(path))
        finally:
            for child in started[1:]:  # all at once
                child.ask_to_end()
            for child in reversed(started):  # the models' last: what is being written is kept first
                child.end()


def _keep(children: list[Child]) -> int:
    """Start again what has ended; returns how many that were."""
    ended = [child for child in children if child.ended()]
    for child in ended:
        if child.early >= MOST_EARLY:
            raise HopelessError(f"{child.name} ends as soon as it is started: see what it said above")
        child.start()
    return len(ended)


def close_what_nobody_writes(workspace: Workspace, hub: Client) -> int:
    """After a web process died: what it was writing is stopped, as far as it was kept; returns how many answers."""

    def orphans() -> set[str]:
        with workspace.store.read() as session:
            written = exchanges.being_written(session)
        return written - asyncio.run(hub.tags()) if written else written

    if not (first := orphans()):
        return 0
    time.sleep(SETTLE_SECONDS)
    left = first & orphans()
    with workspace.store.write() as session:
        return sum(exchanges.reconcile(session, session.get_one(Conversation, each)) for each in sorted(left))


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM."""
    stopped = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
