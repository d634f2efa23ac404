"""A real browser, and the app at an address that it can reach."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from palate.feedback.store import people
from palate.feedback.store.database import Store
from palate.studio.app import create_app
from palate.studio.serve import create
from palate.studio.web.access import COOKIE
from palate.studio.web.workspace import Workspace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; while it is open, Playwright keeps an event loop in this thread, so it closes soon."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        if os.environ.get("PALATE_REQUIRE_BROWSER"):
            pytest.fail("Chromium is not installed, and PALATE_REQUIRE_BROWSER is set")
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The app of a new workspace, listening.

    Attributes:
        complaints: what the browser's console said that it should not.
    """

    address: str
    app: Any
    workspace: Workspace
    browser: Any
    complaints: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return self.workspace.store

    def page_of(self, name: str, role: str = "labeler", **context: Any) -> Any:
        """A page in a browser of its own in which a new person is signed in."""
        with self.store.write() as session:
            user = people.create_user(session, name, "a long password", role)
            signed_in = people.open_session(session, user)
        opened = self.browser.new_context(base_url=self.address, **context)
        opened.add_cookies([{"name": COOKIE, "value": signed_in.token, "url": self.address}])
        page = opened.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console", lambda line: self.complaints.append(line.text) if line.type in ("error", "warning") else None
        )
        return page


@pytest.fixture
def served(browser: Any, tmp_path: Path) -> Iterator[Served]:
    """The app in a thread; the processes that run beside it are not started."""
    workspace = create(tmp_path / "workspace")
    app = create_app(workspace)
    with _listening(app) as address:
        served = Served(address=address, app=app, workspace=workspace, browser=browser)
        yield served
        for context in list(browser.contexts):
            context.close()
    workspace.store.close()


@contextmanager
def _listening(app: Any) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
