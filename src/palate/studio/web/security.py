"""What holds for every response. Plain ASGI, so that streams stay streams.

It goes around everything else, also around what answers when the app itself has failed or a body was too large.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

TOO_LARGE = b'{"error": "that is too large: send less at a time"}'
"""In place of the bare text that the framework sends when a body is over the limit."""


class SecurityHeaders:
    """Adds `HEADERS` to every response, and how long a browser may keep it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        bare = False

        async def with_headers(message: Message) -> None:
            nonlocal bare
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                bare = message["status"] == 413 and headers.get("content-type", "").startswith("text/plain")
                if bare:
                    headers["Content-Type"], headers["Content-Length"] = "application/json", str(len(TOO_LARGE))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", _kept(scope))
            await send({**message, "body": TOO_LARGE} if bare and "body" in message else message)

        await self.app(scope, receive, with_headers)


def _kept(scope: Scope) -> str:
    """Pages and data: never. Files: a day if their address names their version, else as long as they are unchanged."""
    if not scope["path"].startswith("/static/"):
        return "no-store"
    return "max-age=86400" if b"v=" in scope["query_string"] else "no-cache"
