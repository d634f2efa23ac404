"""One vLLM server: what it is asked over HTTP, and what its answers mean.

    POST /inference/v1/generate    token ids in; token ids, log-probabilities and the version of the weights out
    POST /pause, /collective_rpc, /reset_prefix_cache, /update_weight_version, /resume       new weights
    GET  /health, /weight_info     is it there, and which weights does it have

The first is guarded by the server's token. The others are vLLM's development routes, which no token guards: whoever
reaches them commands the server, so it listens on loopback (`vllm_process`). What a server says of its weights is what
it was told; whether it has them is found out by what it draws (`rollout/vllm.py`).

The token comes from the environment and goes into one header. Left out: other transports of weights than a directory.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from palate.errors import EndpointError
from palate.rollout.servers import vllm_worker

AT_FIRST = "default"
"""What a server says of the weights that it was started with."""
LOOK_EVERY = 0.5
"""Seconds between two looks at a server that is gone."""
RESETS = 20
"""How often a prefix cache is asked to forget: blocks of what was drawn last are given back a moment later."""


class ServerLostError(Exception):
    """Nobody answers there any more; whoever comes back has weights of its own."""


class NotNowError(Exception):
    """The server has answered with an error of its own, or not in time; it may be asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One response that is asked for.

    Attributes:
        prompt: token ids.
        stop_id: the token that ends a response, and belongs to it.
        seed: decides what is drawn.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    temperature: float
    stop_id: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What was drawn.

    Attributes:
        logprobs: of each token, under the distribution it was drawn from.
        versions: of the weights that drew it; more than one if they changed meanwhile.
    """

    tokens: list[int]
    logprobs: list[float]
    versions: tuple[str, ...]


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        return None


def send(method: str, address: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> bytes:
    """One request; what is answered. No proxy is asked: servers are near, and a token goes nowhere else.

    Raises:
        HTTPError: another status than 200.
        OSError, HTTPException: no connection, or none that lasted.
    """
    request = Request(address, data=body, headers=dict(headers), method=method)
    with build_opener(_NoRedirect, ProxyHandler({})).open(request, timeout=timeout) as response:
        return bytes(response.read())


class VLLMServer:
    """One of them.

    Args:
        address: such as ``http://127.0.0.1:8300``.
        token: for its header; empty: none is sent.
        timeout_s: for an answer.
    """

    def __init__(self, address: str, *, token: str = "", timeout_s: float = 600.0) -> None:
        self.address, self.timeout_s, self._token = address, timeout_s, token

    def healthy(self) -> bool:
        """Whether it is there and can be asked."""
        try:
            self._ask("GET", "/health", timeout=min(5.0, self.timeout_s))
        except (ServerLostError, NotNowError):
            return False
        return True

    def wait(self, patience_s: float) -> None:
        """Until it is there.

        Raises:
            EndpointError: it does not come.
        """
        until = time.monotonic() + patience_s
        while not self.healthy():
            if time.monotonic() > until:
                raise EndpointError(
                    f"{self.address}: the vLLM server is not there, and was waited for {patience_s:g} s "
                    "(engine.patience_s): start it by `palate engine`, then go on with --resume"
                )
            time.sleep(min(LOOK_EVERY, patience_s))

    def version(self) -> str:
        """Of its weights: what it was told, or `AT_FIRST`."""
        return str(self._read(self._ask("GET", "/weight_info"), "weight_version"))

    def load(self, directory: Path, version: str) -> None:
        """Take the weights in a directory; nothing is drawn meanwhile, and nothing of the old ones is left.

        A server that does not take them stays paused: better silent than with weights that nobody knows.

        Raises:
            ServerLostError, NotNowError: it may be tried again.
            EndpointError: it refuses.
        """
        self._ask("POST", "/pause?mode=abort&clear_cache=true", {})
        where = {"weights_path": str(directory), "is_checkpoint_format": True}
        try:
            self._ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": where})
        except NotNowError as error:
            raise NotNowError(f"{error}; does the server see {directory}? (engine.weights)") from None
        try:
            self._ask("POST", "/collective_rpc", {"method": vllm_worker.METHOD})
        except NotNowError as error:  # whether a server that somebody else started needs it shows in what it draws
            if "is not implemented" not in str(error):
                raise
        for number in range(RESETS):
            if self._read(self._ask("POST", "/reset_prefix_cache", {}), "success"):
                break
            time.sleep(0.05 * number)
        else:
            raise NotNowError(f"{self.address}: does not forget its prefix cache, which is of the old weights")
        self._ask("POST", "/update_weight_version", {"new_version": version})
        self._ask("POST", "/resume", {})
        if (told := self.version()) != version:
            raise NotNowError(f"{self.address}: was given the weights {version}, and says that it has {told}")

    def draw(self, wanted: Draw) -> Reply:
        """One response.

        Raises:
            ServerLostError, NotNowError: it may be asked again.
            EndpointError: it refuses, or its answer is none.
        """
        settings = {
            "temperature": wanted.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "max_tokens": wanted.max_new_tokens,
            "seed": wanted.seed,
            "stop_token_ids": [wanted.stop_id],
            "ignore_eos": True,
            "logprobs": 0,
            "detokenize": False,
        }
        body = self._ask("POST", "/inference/v1/generate", {"token_ids": [*wanted.prompt], "sampling_params": settings})
        try:
            (choice,) = json.loads(body)["choices"]
            content = choice["logprobs"]["content"]
            tokens = [int(token) for token in choice["token_ids"]]
            reply = Reply(
                tokens=tokens,
                logprobs=[float(each["logprob"]) for each in content],
                versions=tuple(str(span["version"]) for span in choice["weight_versions"] or ()),
            )
            assert [int(each["token_id"]) for each in content] == tokens
        except (ValueError, KeyError, IndexError, TypeError, AssertionError):
            raise EndpointError(f"{self.address}: not an answer of vLLM 0.32: {_line(body, self._token)}") from None
        if choice.get("finish_reason") == "abort":
            raise NotNowError(f"{self.address}: the request was taken back; somebody has paused the server")
        if not tokens or not reply.versions:
            raise NotNowError(f"{self.address}: an empty answer, or one that does not say which weights drew it")
        return reply

    def _read(self, body: bytes, name: str) -> Any:
        try:
            return json.loads(body)[name]
        except (ValueError, KeyError, TypeError):
            raise EndpointError(f"{self.address}: not an answer of vLLM 0.32: {_line(body, self._token)}") from None

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float = 0.0) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "palate"}
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            return send(method, self.address + path, data, headers, timeout or self.timeout_s)
        except HTTPError as error:
            with error:
                told = f"{self.address}{path.partition('?')[0]}: {error.code} {_line(error.read(), self._token)}"
            if error.code >= 500 or error.code == 429:
                raise NotNowError(told) from None
            raise EndpointError(told + _advice(error.code)) from None
        except TimeoutError:
            raise NotNowError(f"{self.address}: no answer within {self.timeout_s:g} s (engine.timeout_s)") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise NotNowError(f"{self.address}: no connection within {self.timeout_s:g} s") from None
            raise ServerLostError(f"{self.address}: {reason or type(reason).__name__}") from None


def _advice(code: int) -> str:
    if code == 401:
        return ": name the variable of the environment that holds its token by engine.key_variable"
    if code == 403:
        return ": start the server with --enable-scale-out, as `palate engine` does"
    return ": start the server with VLLM_SERVER_DEV_MODE=1, as `palate engine` does" if code == 404 else ""


def _line(body: bytes, token: str) -> str:
    """What a server wrote, in one short line, without the token."""
    try:
        said = json.loads(body)
        said = said.get("error", said) if isinstance(said, dict) else said
        text = str(said.get("message", said) if isinstance(said, dict) else said)
    except ValueError:
        text = body.decode(errors="replace")
    line = " ".join(text.split())
    line = line.replace(token, "***") if token else line
    return line if len(line) <= 300 else line[:300] + "…"


def token_of(variable: str) -> str:
    """The servers' token, if a variable is named; an error about it does not repeat it.

    Raises:
        EndpointError: it is not set, or holds what no header takes.
    """
    if not variable:
        return ""
    token = os.environ.get(variable, "").strip()
    if not token:
        raise EndpointError(f"engine.key_variable: {variable} is not set in the environment")
    if not (token.isascii() and token.isprintable()):
        raise EndpointError(f"engine.key_variable: what {variable} holds is no token: no header takes its characters")
    return token
