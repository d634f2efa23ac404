"""A Ray cluster's jobs, as its head answers about them at ``http://HOST:8265``.

Four requests over HTTP, which Ray keeps as they are; Ray itself need not be installed here. A job is known by the name
that whoever sends it has chosen: sent once more under that name, it is the same job.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from palate.cluster.places import forwarded
from palate.errors import NotFoundError, RunError

STOPS_WITHIN = 600
"""Seconds for the step at hand and its checkpoint, once a stop was asked for; Ray's own are three."""
ANSWERS_WITHIN = 10.0
"""Seconds."""
_ENDS = {"SUCCEEDED", "FAILED", "STOPPED"}


class UnreachableError(RunError):
    """The head does not answer: now, perhaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """How a job is.

    Attributes:
        state: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``, in Ray's words.
        status: of its process; None: it has not ended, or not by itself.
        message: what Ray says of it; once it has failed, with the end of what it printed.
    """

    state: str
    status: int | None
    message: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in _ENDS

    @property
    def last_word(self) -> str:
        """Of the message."""
        return _last_line(self.message)


class RayJobs:
    """Those of the cluster whose head is at this address, ``http://HOST:8265``.

    All methods raise UnreachableError where nobody answers, and RunError where what was asked is refused.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def submit(self, name: str, line: str) -> None:
        """Have a line run by a shell on the head, with what processes of a cluster take from our environment.

        It is told to stop as any run, by SIGTERM, and has its time for that.

        Args:
            name: of the job; if there is one of that name, nothing happens.
        """
        told = {key: value for key, value in forwarded(os.environ).items() if key not in ("TERM", "COLUMNS", "LINES")}
        settings = {"env_vars": told | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPS_WITHIN)}}
        try:
            self._ask("POST", "/api/jobs/", {"entrypoint": line, "submission_id": name, "runtime_env": settings})
        except RunError as error:
            if "already exists" not in str(error):
                raise

    def look(self, name: str) -> RayJob:
        """How one is.

        Raises:
            NotFoundError: the head knows none of that name.
        """
        said = self._ask("GET", f"/api/jobs/{quote(name)}")
        return RayJob(state=said["status"], status=said.get("driver_exit_code"), message=said.get("message") or "")

    def printed(self, name: str) -> str:
        """All that one has said so far."""
        return str(self._ask("GET", f"/api/jobs/{quote(name)}/logs")["logs"])

    def stop(self, name: str) -> None:
        """Ask it to stop; asked again, nothing happens."""
        self._ask("POST", f"/api/jobs/{quote(name)}/stop")

    def _ask(self, method: str, path: str, said: Mapping[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", **_authorization()}
        body = None if said is None else json.dumps(said).encode()
        try:
            with urlopen(Request(self.address + path, body, headers, method=method), timeout=ANSWERS_WITHIN) as answer:
                return json.load(answer)
        except HTTPError as error:
            why = _last_line(error.read().decode(errors="replace")) or error.reason
            if error.code == 404 and why.endswith("does not exist"):
                raise NotFoundError(why) from None
            kind = UnreachableError if error.code in (502, 503, 504) else RunError
            raise kind(f"{self.address} takes no jobs: {error.code} {why}") from None
        except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
            reason = getattr(error, "reason", error)
            why = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
            raise UnreachableError(f"{self.address} does not answer: {why}") from None
        except ValueError:
            raise RunError(f"{self.address} is no head of a Ray cluster: what it answers is no JSON") from None


def _authorization() -> dict[str, str]:
    """The cluster's token, where there is one: as Ray looks for it."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        with suppress(OSError, RuntimeError):  # there is no such file, or no home
            file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
            token = Path(file).read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _last_line(text: str) -> str:
    """Of a traceback, which is how a head refuses: what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" .\t")]
    return lines[-1][:200] if lines else ""
