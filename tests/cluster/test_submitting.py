"""A command that is sent to a cluster's head, and listened to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from palate.cluster import submitting
from palate.cluster.ray_jobs import RayJob


class ScriptedHead:
    """Takes one job, which says a line at each look."""

    texts = ("one\n", "one\ntwo\n", "one\ntwo\nthree\n")

    def __init__(self, address: str) -> None:
        assert address == "http://head:8265"
        self.name = self.line = ""
        self.looks, self.stopped, self.ends = 0, False, "SUCCEEDED"

    def submit(self, name: str, line: str) -> None:
        self.name, self.line = name, line

    def look(self, name: str) -> RayJob:
        self.looks += 1
        state = ("STOPPED" if self.stopped else self.ends) if self.looks == 3 else "RUNNING"
        return RayJob(state=state, status={"FAILED": 2, "SUCCEEDED": 0}.get(state), message="")

    def printed(self, name: str) -> str:
        return self.texts[self.looks - 1]

    def stop(self, name: str) -> None:
        self.stopped = True


@pytest.mark.parametrize(("ends", "status"), [("SUCCEEDED", 0), ("FAILED", 2), ("STOPPED", 130)])
def test_a_job_is_listened_to(
    ends: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says comes once; its status is ours, and a stop is passed on."""
    head = ScriptedHead("http://head:8265")
    head.ends = ends
    if ends == "STOPPED":
        texts, head.ends = head.printed, "SUCCEEDED"
        monkeypatch.setattr(head, "printed", lambda job: _interrupted(head, texts(job)))
    monkeypatch.setattr(submitting, "RayJobs", lambda address: head)
    monkeypatch.setattr(submitting, "_LOOK_EVERY", 0.0)
    assert (
        submitting.submit("http://head:8265", ["-m", "palate", "cluster", "a b.toml"], Path("/shared disk")) == status
    )
    assert capsys.readouterr().err == f"{head.name} at http://head:8265\none\ntwo\nthree\n"
    assert head.line == "cd '/shared disk' && exec python -m palate cluster 'a b.toml'"


def _interrupted(head: ScriptedHead, text: str) -> str:
    """Somebody presses Ctrl-C while the first line comes."""
    if head.looks == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return text
