"""The app behind a real server on a free port of this machine, in a thread, with a real process for its models."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2 as httpx
import uvicorn

from palate.feedback.store import people
from palate.studio.web.access import COOKIE

if TYPE_CHECKING:
    from tests.studio.conftest import Studio

PASSWORD = "a long password"
TIMEOUT = 120
"""Seconds; a few tokens take milliseconds, unless much else runs on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A running server; ``models`` are ids by name."""

    studio: Studio
    url: str
    models: dict[str, str]

    def warm_up(self) -> None:
        """Wait until the models' process is there and has loaded them: where much else runs, that takes its time."""
        headers = {"Authorization": f"Bearer {self.token('chat')}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=600) as client:
            for name in self.models:
                body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
                client.post("/v1/chat/completions", json=body).raise_for_status()

    def client(self, role: str, name: str | None = None) -> httpx.Client:
        """A browser of a new person."""
        with self.studio.store.write() as session:
            user = people.create_user(session, name or f"{role} {time.monotonic_ns()}", PASSWORD, role)
            signed_in = people.open_session(session, user)
        cookies, headers = {COOKIE: signed_in.token}, {"X-CSRF-Token": signed_in.csrf}
        return httpx.Client(base_url=self.url, cookies=cookies, headers=headers, timeout=TIMEOUT)

    def token(self, role: str) -> str:
        """A new person's key to the API."""
        with self.studio.store.write() as session:
            user = people.create_user(session, f"{role} {time.monotonic_ns()}", PASSWORD, role)
            return people.issue_token(session, user, "test")[1]


@contextmanager
def serving(studio: Studio) -> Iterator[str]:
    """Serve the app; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(studio.app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
