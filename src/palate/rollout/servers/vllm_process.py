"""One vLLM server as a process of ours: started, waited for, started again when it dies, ended with all it began.

Its token is in its environment alone, and a guard of ours asks for it on every route (`vllm_guard`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from palate.errors import RunError
from palate.rollout.servers import vllm_guard
from palate.rollout.servers.vllm_server import VLLMServer
from palate.run import leash

LOOK_EVERY, TELL_EVERY = 0.5, 5.0
"""Seconds between two looks, and between two lines about a server that is starting."""
MOST_DEATHS = 3
"""In a row, before it was ever there: then it is of no use to start it again."""
FAREWELL = 10.0
"""Seconds that a server has to end by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is served, and how.

    Attributes:
        python: an interpreter that has vLLM.
        model: a directory or name: shape and tokenizer; its weights are the first that the server has.
        host, port: where it listens.
        token: what it asks for.
        dtype: of weights and products, as vLLM calls it.
        max_length: longest prompt and response, in tokens; 0: the model's own.
        num_slots: responses drawn side by side.
        log: a file for what it says.
        more: further arguments of vLLM's.
    """

    python: Path
    model: str
    host: str
    port: int
    token: str
    dtype: str
    max_length: int
    num_slots: int
    log: Path
    more: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """As a recipe names it."""
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        """What is run."""
        return [
            *(str(self.python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.model, "--served-model-name", "policy", "--dtype", self.dtype),
            *("--host", self.host, "--port", str(self.port)),
            *("--max-num-seqs", str(self.num_slots)),
            *(("--max-model-len", str(self.max_length)) if self.max_length else ()),
            *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
            *("--enable-scale-out", "--middleware", "vllm_guard.RequireToken"),
            *("--worker-extension-cls", "vllm_worker.PacksTiedWeights"),
            *self.more,
        ]

    def environment(self) -> dict[str, str]:
        """The variables that it sees: ours, without our packages, and what it needs besides."""
        ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        return ours | {
            "PYTHONPATH": str(Path(vllm_guard.__file__).parent),
            vllm_guard.VARIABLE: self.token,
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        }


class ServerProcess:
    """The server while it is watched.

    Args:
        serving: what is served.
        say: is told what happens.
    """

    def __init__(self, serving: Serving, say: Callable[[str], None]) -> None:
        self.serving, self.say = serving, say
        self.server = VLLMServer(serving.address, token=serving.token, timeout_s=5.0)
        self.process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RunError: somebody else listens there, or it ends before it answers.
        """
        if _is_taken(self.serving.host, self.serving.port):
            raise RunError(f"somebody listens at {self.serving.address} already: name another --port")
        self.serving.log.parent.mkdir(parents=True, exist_ok=True)
        with self.serving.log.open("ab") as log:
            begun_at = log.tell()
            bound = [sys.executable, "-I", leash.__file__, str(os.getpid()), str(int(signal.SIGTERM))]
            self.process = subprocess.Popen(
                [*bound, *self.serving.command()],
                env=self.serving.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours, and what it starts ends with it
            )
        begun = told = time.monotonic()
        while not self.server.healthy():
            if (status := self.process.poll()) is not None:
                said = _last_error(self.serving.log, begun_at)
                raise RunError(f"vLLM ended with status {status} while it started: {said} ({self.serving.log})")
            if time.monotonic() - told >= TELL_EVERY:
                told = time.monotonic()
                self.say(f"vLLM is starting: {told - begun:.0f} s ({self.serving.log})")
            time.sleep(LOOK_EVERY)
        self.say(f"vLLM answers at {self.serving.address} after {time.monotonic() - begun:.0f} s")

    def watch(self) -> None:
        """Start it again whenever it dies, until it is ended.

        Raises:
            RunError: it does not start any more.
        """
        deaths = 0
        while self.process is not None:
            status = self.process.wait()
            if self._ended:
                return
            self._kill()
            self.say(f"vLLM has ended (status {status}) and is started again; the runs that use it give it its weights")
            try:
                self.start()
                deaths = 0
            except RunError:
                deaths += 1
                if deaths == MOST_DEATHS:
                    raise

    def end(self) -> None:
        """It, and all that it has started; it is not started again."""
        self._ended = True
        self._kill()

    def _kill(self) -> None:
        if self.process is None:
            return
        for number, patience in ((signal.SIGTERM, FAREWELL), (signal.SIGKILL, FAREWELL)):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                break
        with suppress(ProcessLookupError):  # workers that outlive it
            os.killpg(self.process.pid, signal.SIGKILL)


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _last_error(log: Path, begun_at: int) -> str:
    """The last line that tells of an error, or the last of all."""
    with log.open("rb") as file:
        file.seek(begun_at)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it said nothing"])[-1][-300:]
