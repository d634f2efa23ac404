"""Processes that outlive the app: begun in a session of their own, and found again by number and start time.

A process number is used again sooner or later, so a process is known by its number and when it was started. Linux says
that in /proc, to a hundredth of a second since the machine was started; elsewhere `ps` says it to the second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process, not to be mistaken for a later one of the same number."""

    pid: int
    started: float


def begin(command: Sequence[str], *, log: Path, directory: Path) -> subprocess.Popen[bytes]:
    """Start a command in ``directory`` and in a session of its own; what it prints is added to ``log``."""
    with log.open("ab") as file:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=directory,
            start_new_session=True,
        )


def find(pid: int) -> Process | None:
    """The process that has this number now, dead or alive; None if there is none."""
    found = _look_up(pid)
    return None if found is None else Process(pid, found[0])


def is_alive(process: Process) -> bool:
    """Whether that very process is still running; one that has ended and was not waited for is not."""
    found = _look_up(process.pid)
    return found is not None and found[0] == process.started and not found[1]


def signal_group(process: Process, number: signal.Signals) -> None:
    """Send a signal to the process and all it has started, if it is still the one that is meant."""
    if is_alive(process):
        with suppress(ProcessLookupError):  # it may end just now
            os.killpg(process.pid, number)


def _look_up(pid: int) -> tuple[float, bool] | None:
    """(started, has ended) of whatever has this number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else ask_ps(pid)
    fields = text.rpartition(")")[2].split()  # the name before may hold anything, spaces and brackets too
    return int(fields[19]) / os.sysconf("SC_CLK_TCK"), fields[0] in "ZX"


def ask_ps(pid: int) -> tuple[float, bool] | None:
    """The same from `ps`, for systems without /proc."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout.split()
    if len(said) < 2:
        return None
    return time.mktime(time.strptime(" ".join(said[1:]))), said[0].startswith("Z")
