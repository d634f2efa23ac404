"""A command for a cluster that this machine does not belong to: sent to its head as a Ray job, and listened to.

There it is `palate cluster` again, in the same directory: recipe, data and models are read from the disk that all
machines see, and nothing is sent but the command line.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from palate.cluster.places import forwarded
from palate.errors import PeerError, RunError
from palate.run.signals import StopRequest

STOPS_WITHIN = 600
"""Seconds for the step at hand and its checkpoint, once a stop was asked for; Ray's own are three."""
LOST_AFTER = 120.0
"""Seconds without an answer of the head, after which nobody listens any more."""
_LOOK_EVERY = 1.0
_MOST_A_SECOND = 200_000
"""Characters: the head answers with all that was said, every time."""
_OVER = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 130}


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
    told = {name: value for name, value in forwarded(os.environ).items() if name not in ("TERM", "COLUMNS", "LINES")}
    line = f"cd {shlex.quote(str(directory))} && exec python {shlex.join(command)}"
    try:
        client = JobSubmissionClient(address)
        settings = {"env_vars": told | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPS_WITHIN)}}
        job = client.submit_job(entrypoint=line, runtime_env=settings)
    except (ConnectionError, RuntimeError, OSError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise RunError(f"{address} takes no jobs: {why}") from None
    print(f"{job} at {address}", file=sys.stderr, flush=True)
    shown, heard, told_to_stop = 0, time.monotonic(), False
    with StopRequest(says=False) as stop:
        while True:
            try:
                if stop.asked and not told_to_stop:
                    client.stop_job(job)
                    told_to_stop = True
                status = client.get_job_status(job)
                text = client.get_job_logs(job)
            except (ConnectionError, RuntimeError, OSError):
                if time.monotonic() - heard > LOST_AFTER:
                    raise PeerError(f"{address} has not answered for {LOST_AFTER:g} s; {job} may go on") from None
                time.sleep(_LOOK_EVERY)
                continue
            heard = time.monotonic()
            sys.stderr.write(text[shown:])
            sys.stderr.flush()
            shown = len(text)
            if status.is_terminal():
                code = client.get_job_info(job).driver_exit_code
                return _OVER.get(status, code if code and code > 0 else 1)
            time.sleep(_LOOK_EVERY + shown / _MOST_A_SECOND)
