"""A command for a cluster that this machine does not belong to: sent to its head as a Ray job, and listened to.

There it is `palate cluster` again, in the same directory: recipe, data and models are read from the disk that all
machines see, and nothing is sent but the command line.
"""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from palate.cluster.ray_jobs import RayJobs, UnreachableError
from palate.errors import PeerError
from palate.run.signals import StopRequest

LOST_AFTER = 120.0
"""Seconds without an answer of the head, after which nobody listens any more."""
_LOOK_EVERY = 1.0
_MOST_A_SECOND = 200_000
"""Characters: the head answers with all that was said, every time."""
_OVER = {"SUCCEEDED": 0, "STOPPED": 130}


def submit(address: str, command: Sequence[str], directory: Path) -> int:
    """Run it there and say what it says, until it has ended; its exit status.

    A stop is passed on: the run finishes its step and writes a checkpoint. If this process is killed, the job goes on.

    Args:
        address: of the head's dashboard, as ``http://HOST:8265``.
        command: after ``python``.
        directory: where it is run, on the cluster's machines.

    Raises:
        RunError: there is no head at that address, or it takes no jobs.
        PeerError: the head does not answer any more; the job may go on.
    """
    jobs, job = RayJobs(address), f"palate-{secrets.token_hex(6)}"
    jobs.submit(job, f"cd {shlex.quote(str(directory))} && exec python {shlex.join(command)}")
    print(f"{job} at {address}", file=sys.stderr, flush=True)
    shown, heard, told_to_stop = 0, time.monotonic(), False
    with StopRequest(says=False) as stop:
        while True:
            try:
                if stop.asked and not told_to_stop:
                    jobs.stop(job)
                    told_to_stop = True
                now = jobs.look(job)
                text = jobs.printed(job)
            except UnreachableError:
                if time.monotonic() - heard > LOST_AFTER:
                    raise PeerError(f"{address} has not answered for {LOST_AFTER:g} s; {job} may go on") from None
                time.sleep(_LOOK_EVERY)
                continue
            heard = time.monotonic()
            sys.stderr.write(text[shown:])
            sys.stderr.flush()
            shown = len(text)
            if now.over:
                return _OVER.get(now.state, now.status if now.status and now.status > 0 else 1)
            time.sleep(_LOOK_EVERY + shown / _MOST_A_SECOND)
