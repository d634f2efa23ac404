"""An OpenAI-compatible endpoint on a free port of this machine, whose model goes by a rule of the test's."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rule = Callable[[str, str, str], float]
"""From the two answers and the whole question: how much of the model is for the first, 0 to 1."""


def longer(first: str, second: str, asked: str) -> float:
    """The longer answer, wherever it stands."""
    return 0.9 if len(first) > len(second) else 0.1


def answers_in(asked: str) -> tuple[str, str]:
    """The two quoted answers of a question."""
    first, second = re.findall(r"^Answer [AB]:\n((?:> .*\n?)+)", asked, re.MULTILINE)
    one, other = ("\n".join(line[2:] for line in part.splitlines()) for part in (first, second))
    return one, other


class ScriptedEndpoint:
    """What it was asked, and how it answers.

    Attributes:
        asked: bodies of requests, in the order in which they came.
        headers: theirs.
        rule: of the model that judges.
        says: what it writes to a conversation, where it is not to judge.
        failures: status and headers of the next answers, one request each, before it answers at all.
        silent: seconds that it waits before it says anything.
        gives_logprobs, counts_tokens: whether it does.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.rule: Rule = longer
        self.says: Callable[[list[dict[str, str]]], str] = lambda messages: f"On {len(messages)} turns."
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.silent = 0.0
        self.gives_logprobs = self.counts_tokens = True
        self.ends = True
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.asked.append({"path": request.path, **body})
            self.headers.append(dict(request.headers))
            status, headers = self.failures.pop(0) if self.failures else (200, {})
        time.sleep(self.silent)
        said = self.reply(body) if status == 200 else {"error": {"message": f"no: {request.headers['Authorization']}"}}
        try:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(json.dumps(said).encode())
        except OSError:  # whoever asked has gone
            pass

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = body["messages"][-1]["content"]
        choice: dict[str, Any] = {"finish_reason": "stop" if self.ends else "length"}
        if "Answer A:" in asked:
            first = self.rule(*answers_in(asked), asked)
            letter = "A" if first > 0.5 else "B"
            shares = {" A": first, "B": 1 - first}
            tops = [{"token": token, "logprob": math.log(share or 1e-9)} for token, share in shares.items()]
            choice["message"] = {"content": f"Answer {letter}"}
            if body.get("logprobs") and self.gives_logprobs:
                choice["logprobs"] = {"content": [{"token": letter, "top_logprobs": tops}]}
        else:
            choice["message"] = {"content": self.says(body["messages"])}
        return {"choices": [choice]} | ({"usage": {"total_tokens": 7}} if self.counts_tokens else {})


@contextmanager
def serving() -> Iterator[ScriptedEndpoint]:
    """While it is entered it answers."""
    served = ScriptedEndpoint()
    thread = threading.Thread(target=served.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.http.shutdown()
        served.http.server_close()
        thread.join()
