"""What stands before every route of a vLLM server that `palate engine` starts: the token is asked for.

vLLM's own key guards the routes that answer; those that command it (weights, pausing, any method of its workers) ask
for nothing. This file is imported by vLLM's Python, so it imports nothing of ours. `/health` tells everybody that a
server lives.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

VARIABLE = "PALATE_ENGINE_TOKEN"
"""Of the server's environment: what it asks for. On its command line everybody on the machine could read it."""

Message = MutableMapping[str, Any]


class RequireToken:
    """An ASGI application before another one; a server that was given no token refuses everything."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self._wanted = f"Bearer {os.environ.get(VARIABLE, '')}".encode()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Pass on what has the token, and answer 401 to the rest."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == "/health"):
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"authorization", b"")
        if os.environ.get(VARIABLE) and hmac.compare_digest(told, self._wanted):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
        else:
            await send({"type": "websocket.close", "code": 1008})
