"""A workspace whose jobs are looked after by hand, and what they run."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from tests.studio.live import PASSWORD

from palate.feedback.store import people
from palate.feedback.store.tables import Job
from palate.studio.training import jobs
from palate.studio.training.jobs import Runner
from palate.studio.training.processes import Process
from palate.studio.training.recipebook import Plan
from palate.studio.web.workspace import Workspace

PATIENCE = 120.0
"""Seconds until a test gives up; the machine may be busy."""


class Scripted(Runner):
    """Runs a few lines of Python instead of `palate`."""

    script = ""

    def command(self, job: Job) -> list[str]:
        directory = str(jobs.directory_of(self.workspace, job))
        head = "import sys, time, signal, os, json; from pathlib import Path; here = Path(sys.argv[1])\n"
        head += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        return [sys.executable, "-c", head + textwrap.dedent(self.script), directory]


ENDS = "print('palate: all is well')"
NOTED = """
    from palate.studio.training import launch, processes
    process = processes.find(os.getpid())
    launch.write_note(here, launch.Note(process, None))
    {}
    launch.write_note(here, launch.Note(process, {}))
"""


class Shop:
    """A workspace, an admin, and runners that are put away at the end."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.runners: list[Runner] = []
        with workspace.store.write() as session:
            self.admin = people.create_user(session, "admin", PASSWORD, "admin")

    def runner(self, script: str | None = None) -> Runner:
        runner: Runner
        if script is None:
            runner = Runner(self.workspace)
        else:
            runner = Scripted(self.workspace)
            runner.script = script
        self.runners.append(runner)
        return runner

    def job(self, name: str = "job", command: str = "sft", recipe: str = "", **then: object) -> str:
        with self.workspace.store.write() as session:
            plan = Plan(name=name, command=command, recipe=recipe, then=dict(then))
            return jobs.enqueue(session, self.workspace, plan, by=self.admin).id

    def look(self, job_id: str) -> Job:
        with self.workspace.store.read() as session:
            return session.get_one(Job, job_id)

    def directory(self, job_id: str) -> Path:
        return self.workspace.directory / self.look(job_id).directory

    def cancel(self, job_id: str) -> None:
        with self.workspace.store.write() as session:
            jobs.cancel(session, self.workspace, jobs.job_of(session, job_id), by=self.admin)

    def resume(self, job_id: str) -> None:
        with self.workspace.store.write() as session:
            jobs.resume(session, self.workspace, jobs.job_of(session, job_id), by=self.admin)

    def until(self, runner: Runner, reached: Callable[[], bool]) -> None:
        """Look after the jobs until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < deadline, "it takes too long"
            runner.tick()
            time.sleep(0.02)

    def ended(self, job_id: str) -> Callable[[], bool]:
        return lambda: self.look(job_id).state not in ("queued", "running")

    def process(self, job_id: str) -> Process:
        process = jobs.process_of(self.workspace, self.look(job_id))
        assert process is not None
        return process
