"""The web app: routers, what holds for all of them, and how errors look."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import palate
from palate.errors import ConflictError, ForbiddenError, NotFoundError, PalateError, TooManyError
from palate.studio.web.access import ANYONE, Db, SignInNeeded, allow, guard, roles_of
from palate.studio.web.monitoring import Measured
from palate.studio.web.rendering import STATIC, page, wants_json
from palate.studio.web.security import SecurityHeaders
from palate.studio.web.workspace import Workspace

ROUTERS = (
    "web.entry",
    "labeling.label",
    "labeling.tasks",
    "labeling.bringing",
    "labeling.guidelines",
    "chat.talking",
    "web.tokens",
    "chat.endpoint.routes",
    "overview.arena",
    "labeling.people",
    "labeling.screening",
    "labeling.review",
    "labeling.agreement",
    "labeling.exports",
    "overview.dashboard",
    "labeling.log",
    "web.description",
    "web.monitoring",
    "overview.start",
    "labeling.clip_work",
    "labeling.batches",
    "labeling.covering",
    "training.comparing",
    "training.sources.file_runs",
    "training.sources.several_runs",
    "training.runs",
    "training.rounds",
)
"""Modules of this package with a ``router``; one with ``start`` and ``stop`` has something running beside it."""

BODY_BYTES = 1 << 20
"""Largest form; routes that take a file say so themselves (``max_body_size``)."""

THREADS = 2
"""Requests worked on at once. Python computes one at a time: more threads only take turns, in the middle of
transactions that others wait for (measured with `benchmarks/studio_load.py`)."""

_STATUS = {NotFoundError: 404, ForbiddenError: 403, ConflictError: 409, TooManyError: 429}

health = APIRouter()


@health.get("/healthz", tags=["health"])
@allow(ANYONE)
def healthz(store: Db) -> dict[str, str]:
    """Whether the app and its database answer."""
    with store.read() as session:
        session.execute(text("SELECT 1"))
    return {"status": "ok", "version": palate.__version__}


class Studio(FastAPI):
    """The app with these around all of it; middleware would be inside of what reports errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        await Measured(SecurityHeaders(super().__call__))(scope, receive, send)


def create_app(
    workspace: Workspace, *, secure_cookies: bool = False, hub: Path | None = None, with_jobs: bool = True
) -> FastAPI:
    """The app of a workspace.

    Args:
        workspace: its database is brought to this version.
        secure_cookies: for HTTPS; a browser then never sends the session over plain HTTP.
        hub: the socket of the process that holds the models, if there are several like this one.
        with_jobs: look after the workspace's jobs, unless another process does already.
    """
    workspace.store.upgrade()
    modules = [import_module(f"palate.studio.{name}") for name in ROUTERS]
    app = Studio(
        title="Palate Studio",
        version=palate.__version__,
        dependencies=[Depends(guard)],
        lifespan=_lifespan(modules),
        max_body_size=BODY_BYTES,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.workspace, app.state.secure_cookies = workspace, secure_cookies
    app.state.hub, app.state.with_jobs = hub, with_jobs
    app.state.routers = [health, *(module.router for module in modules)]
    for router in app.state.routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    closed = [route.path for route in routes_of(app) if not roles_of(route)]
    assert not closed, f"routes that name no roles: {closed}"
    _handle_errors(app)
    return app


def routes_of(app: FastAPI) -> list[APIRoute]:
    """Every endpoint of the app, pages and API alike."""
    return [route for router in app.state.routers for route in router.routes if isinstance(route, APIRoute)]


def _lifespan(modules: Sequence[Any]) -> Any:
    running = [module for module in modules if hasattr(module, "start")]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = THREADS
        for module in running:
            await module.start(app)
        yield
        for module in reversed(running):
            await module.stop(app)
        app.state.workspace.store.close()

    return lifespan


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(SignInNeeded)
    def sign_in(request: Request, error: SignInNeeded) -> Response:
        if wants_json(request):
            return JSONResponse({"error": "sign in first"}, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        return RedirectResponse(f"/sign-in?next={request.url.path}", status_code=303)

    @app.exception_handler(PalateError)
    def ours(request: Request, error: PalateError) -> Response:
        headers = {"Retry-After": str(int(error.retry_after))} if isinstance(error, TooManyError) else {}
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
        return _error(request, status, str(error), headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _error(request, 422, f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        return _error(request, error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        """Of ours; the traceback goes to the server's log."""
        return _error(request, 500, "something broke here, and it is not your fault: try again, or tell an admin")

    @app.exception_handler(OperationalError)
    def busy(request: Request, error: OperationalError) -> Response:
        return _error(request, 503, "the database is busy: try again", {"Retry-After": "2"})


def _error(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    if wants_json(request):
        return JSONResponse({"error": message}, status_code=status, headers=headers)
    response = page(request, "web/error.html", status=status, code=status, message=message)
    response.headers.update(headers or {})
    return response
