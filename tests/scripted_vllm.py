"""A server that behaves as vLLM does, good habits and bad: in this process, or on a free port of this machine.

It draws with the weights that it has read from a directory, by the local engine's code, so that what it says of its
tokens is true, or false in the way that a fault makes it.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import torch

from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.randomness import uniforms
from palate.recipe import Sampling
from palate.rollout.drawing import Drawn
from palate.rollout.local import steps

TOKEN = "a-token-of-nobody-23"


class Dead(Exception):
    """Nobody answers."""


class ScriptedVLLM:
    """One server, and what it was asked.

    Attributes:
        asked: method and path of every request, in order.
        loaded: directories that it was told to read.
        packed: those after which it was told to pack again what is tied.
        packs: False: it cannot, and says ``packs_not``.
        seeds: of the responses it was asked for.
        cached: by prompt, the weights that its keys and values were computed with.
        lives: how often it was started.
        forgets: False: its prefix cache survives new weights.
        rereads: False: a path that it has read before gives what it gave then.
        reads: False: it says that it has new weights, and keeps the old ones.
        twists: makes what it says of a token's log-probability.
        dies_after: so many more draws; then nobody answers until it was looked at ``back_after`` times.
        failures: statuses of the next draws, before it answers at all.
    """

    def __init__(self, first: str = "tiny", *, token: str = "") -> None:
        self.token = token
        self.first = first
        self.asked: list[tuple[str, str]] = []
        self.loaded: list[str] = []
        self.seeds: list[int] = []
        self.held_at_draws: list[str] = []
        self.read: dict[str, Loaded[LanguageModel]] = {}
        self.packed: list[str] = []
        self.packs_not = "Method 'pack_tied_weights' is not implemented."
        self.forgets = self.rereads = self.reads = self.packs = True
        self.twists: Callable[[float], float] = lambda logprob: logprob
        self.dies_after: int | None = None
        self.back_after = 2
        self.failures: list[int] = []
        self.lives = 0
        self.lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """As it is begun: with the weights that it was started with."""
        self.lives += 1
        self.version, self.paused, self.dead = "default", False, False
        self.model = self._weights(self.first)
        self.cached: dict[tuple[int, ...], Loaded[LanguageModel]] = {}

    def _weights(self, path: str) -> Loaded[LanguageModel]:
        if path not in self.read or self.rereads:
            self.read[path] = load_language_model(path, precision="fp32")
        return self.read[path]

    def answer(self, method: str, path: str, body: Mapping[str, Any], authorization: str = "") -> tuple[int, Any]:
        """Status, and what is said.

        Raises:
            Dead: nothing is.
        """
        with self.lock:
            route = urlsplit(path).path
            self.asked.append((method, path))
            if self.dead:
                self.back_after -= route == "/health"
                if self.back_after >= 0:
                    raise Dead
                self.start()
            guarded = route.startswith(("/v1", "/inference"))
            if self.token and guarded and authorization != f"Bearer {self.token}":
                return 401, {"error": "Unauthorized"}
            return getattr(self, "_" + route.strip("/").replace("/", "_"))(body)

    def _health(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        return 200, ""

    def _weight_info(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        return 200, {"weight_version": self.version}

    def _pause(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        self.paused = True
        return 200, {"status": "paused"}

    def _resume(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        self.paused = False
        return 200, {"status": "resumed"}

    def _collective_rpc(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        if body["method"] != "reload_weights":
            assert body["method"] == "pack_tied_weights"
            self.packed.append(self.loaded[-1])
            return (200, {"results": [2]}) if self.packs else (500, {"error": {"message": self.packs_not}})
        path = body["kwargs"]["weights_path"]
        assert self.paused, "weights are changed under responses that are being drawn"
        self.loaded.append(path)
        if self.reads:
            self.model = self._weights(path)
        return 200, {"results": [None]}

    def _reset_prefix_cache(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        if self.forgets:
            self.cached.clear()
        return 200, {"success": True}

    def _update_weight_version(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        self.version = body["new_version"]
        return 200, {"success": True, "new_version": self.version}

    def _inference_v1_generate(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        if self.dies_after is not None:
            if not self.dies_after:
                self.dead, self.dies_after = True, None
                raise Dead
            self.dies_after -= 1
        if self.failures:
            return self.failures.pop(0), {"error": {"message": "the engine is busy"}}
        assert not self.paused
        settings, prompt = body["sampling_params"], tuple(body["token_ids"])
        self.seeds.append(settings["seed"])
        self.held_at_draws.append(self.version)
        loaded = self.cached.setdefault(prompt, self.model)
        count = settings["max_tokens"]
        drawn = Drawn(0, uniforms(count, "vllm", settings["seed"]).tolist())
        sampling = Sampling(temperature=settings["temperature"], max_new_tokens=count)
        (stop_id,) = settings["stop_token_ids"]
        with torch.no_grad():
            for _ in steps(loaded.model, [list(prompt)], [drawn], sampling, stop_id):
                pass
        said = [
            {"token_id": token, "logprob": self.twists(logprob)}
            for token, logprob in zip(drawn.tokens, drawn.logprobs, strict=True)
        ]
        choice = {
            "index": 0,
            "finish_reason": "stop" if drawn.ended else "length",
            "token_ids": drawn.tokens,
            "weight_versions": [{"version": self.version, "start": 0, "end": len(drawn.tokens)}],
            "logprobs": {"content": said},
        }
        return 200, {"choices": [choice]}

    def send(self, method: str, address: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> bytes:
        """In the place of `vllm_server.send`: a request without a network."""
        parts = urlsplit(address)
        path = parts.path + ("?" + parts.query if parts.query else "")
        try:
            status, said = self.answer(method, path, json.loads(body or b"{}"), headers.get("Authorization", ""))
        except Dead:
            raise ConnectionRefusedError(111, "Connection refused") from None
        data = json.dumps(said).encode()
        if status != 200:
            raise HTTPError(address, status, "", Message(), io.BytesIO(data))
        return data


def several(servers: Mapping[str, ScriptedVLLM]) -> Callable[..., bytes]:
    """In the place of `vllm_server.send`: whoever is at an address answers."""

    def send(method: str, address: str, *rest: Any) -> bytes:
        parts = urlsplit(address)
        return servers[f"{parts.scheme}://{parts.netloc}"].send(method, address, *rest)

    return send


@contextmanager
def serving(server: ScriptedVLLM) -> Iterator[str]:
    """Its address on a free port, while this is entered."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            try:
                status, said = server.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            except Dead:
                self.close_connection = True
                return
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
