"""Keeps one process on the machine where Ray has placed it, a trainer or an engine: started here and looked after.

A Ray actor of one thread, sent by value: a machine needs nothing of ours for it but what that process itself needs. It
answers one call at a time, and none takes long.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from signal import SIGKILL
from typing import Any
from urllib.request import ProxyHandler, build_opener

ENDED_WITHIN = 10.0
"""Seconds from SIGKILL to the end of a process."""


class Keeper:
    """One process's."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: dict[int, int] = {}
        self._store: Any = None

    def here(self) -> tuple[str, str, tuple[str, ...]]:
        """The machine's name in the cluster, its address, and the GPUs that were given to this place."""
        import ray

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        return str(context.get_node_id()), str(ray.util.get_node_ip_address()), tuple(map(str, gpus))

    def listen(self, address: str) -> int:
        """A free port, at which the trainers will meet, or an engine listen; nobody else can take it from now on."""
        self._socket = socket.create_server((address, 0), backlog=1024)
        return int(self._socket.getsockname()[1])

    def let_go(self) -> None:
        """Of that port: whoever is started here takes it."""
        self._socket.close()

    def answers(self, address: str) -> bool:
        """Whether the engine at this address says that it can be asked."""
        with suppress(OSError, HTTPException):  # every other status than 200 is an error
            build_opener(ProxyHandler({})).open(f"{address}/health", timeout=5).close()
            return True
        return False

    def start(
        self,
        leash: str,
        command: Sequence[str],
        directory: str,
        environment: Mapping[str, str],
        *,
        terminal: bool,
        left_by: int = SIGKILL,
    ) -> str:
        """Start the process; why that is not possible, or nothing.

        Args:
            leash: the source of `leash.py`.
            command: after ``python``.
            directory: to start it in; on a disk that all machines see.
            environment: beside the machine's own.
            terminal: somebody looks at what it says: its standard error is a terminal.
            left_by: the signal that tells it of this keeper's death.
        """
        if not os.path.isdir(directory):
            return f"{directory} is not there on {socket.gethostname()}: all machines must see the same disk"
        out, into = os.pipe()
        err, spoken = os.openpty() if terminal else os.pipe()
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        bound = [sys.executable, "-I", "-c", leash, str(os.getpid()), str(int(left_by))]
        self._process = subprocess.Popen(
            [*bound, sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=into,
            stderr=spoken,
            cwd=directory,
            env=ours | dict(environment),
            start_new_session=True,
        )
        os.close(into)
        os.close(spoken)
        self._pipes = {out: 1, err: 2}
        return ""

    def open_store(self, address: str) -> None:
        """Let the trainers meet: torch's store, which outlives each of them."""
        from datetime import timedelta

        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not say that it is public

        port, descriptor = self._socket.getsockname()[1], self._socket.detach()
        self._store = TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=60),
            master_listen_fd=descriptor,
        )

    def look(self, seconds: float) -> tuple[list[tuple[int, bytes]], int | None]:
        """What the process has said since, as (1 for output or 2 for errors, text), and its exit status if it ended."""
        assert self._process is not None
        until = time.monotonic() + seconds
        said: list[tuple[int, bytes]] = []
        while self._pipes and not said and (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([*self._pipes], [], [], left)
            for descriptor in ready:
                try:
                    text = os.read(descriptor, 2**16)
                except OSError:  # how a terminal says that nobody is there any more
                    text = b""
                if text:
                    said.append((self._pipes[descriptor], text))
                else:
                    os.close(descriptor)
                    del self._pipes[descriptor]
            if self._process.poll() is not None and not said and not ready:  # a process of its own holds the pipe
                break
        if said:
            return said, None
        with suppress(subprocess.TimeoutExpired):
            return said, self._process.wait(max(0.0, until - time.monotonic()))
        return said, None

    def signal(self, number: int) -> None:
        """To the process alone: what it has started is its own to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, patience: float = 0.0) -> None:
        """With all that it has started: at once, or after so many seconds in which it can end others itself."""
        if self._process is None:
            return
        if patience:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDED_WITHIN)
