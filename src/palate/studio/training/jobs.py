"""Jobs: sampling, training, scoring and evaluation, each in a process of its own, one at a time.

A job is a line of the table `Job` and a run directory. The `Runner` looks after them every second: it starts the oldest
that waits, notices which have ended, and does with their results what the job says (`outcomes`). Processes outlive the
app; a new one finds them again.

    queued --start--> running --status 0--> done          running --SIGINT, by us--> cancelled --resume--> queued
                              --anything else--> failed --resume--> queued

One that failed with the status of `LabelsNeededError` waits for people: nothing went wrong, and the pages say so.

A job is cancelled politely: SIGINT lets the run finish its step and write a checkpoint; SIGTERM and SIGKILL follow if
it does not end, at once when it is cancelled a second time.

Left out: several jobs at once (they would share the same few cores), and priorities between them.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from palate.errors import ConflictError, LabelsNeededError, NotFoundError, PalateError
from palate.feedback.store import people
from palate.feedback.store.tables import Job, User
from palate.run import lineage
from palate.studio.training import launch, outcomes, processes
from palate.studio.training.processes import Process
from palate.studio.training.recipebook import Plan
from palate.studio.web.workspace import Workspace

LOG, RECIPE, STOP = "log.txt", "job.toml", "stop"
LOOK_EVERY = 1.0
TERM_AFTER = 180.0
"""Seconds from SIGINT to SIGTERM: the step at hand may be long."""
KILL_AFTER = 20.0
"""Seconds from SIGTERM to SIGKILL."""
FOUND_WITHIN = 60.0
"""A process that was started just before the app was killed has written its note by then."""

KILLED = "the process was killed from outside, perhaps for lack of memory; resume goes on from the last checkpoint"


def enqueue(session: Session, workspace: Workspace, plan: Plan, *, by: User | None) -> Job:
    """A job that starts as soon as nothing else runs."""
    number, directory = _new_directory(session, workspace, plan.name)
    job = Job(
        name=plan.name if number == 1 else f"{plan.name} {number}",
        stage=plan.command,
        recipe=plan.recipe,
        directory=directory,
        then=plan.then,
        round_number=plan.round_number,
        created_by=by.id if by else None,
        created_at=time.time(),
    )
    session.add(job)
    people.record(session, by.id if by else None, "queued a job", name=job.name, command=job.stage)
    session.flush()
    return job


def job_of(session: Session, job_id: str) -> Job:
    """A job.

    Raises:
        NotFoundError: there is none with that id.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError("no such job")
    return job


def cancel(session: Session, workspace: Workspace, job: Job, *, by: User) -> None:
    """Take it out of the queue, or ask its process to stop; asked again, it stops at once.

    Raises:
        ConflictError: it has ended already.
    """
    if job.state == "queued":
        job.state, job.ended_at, job.message = "cancelled", time.time(), "taken out of the queue"
    elif job.state == "running":
        stop = directory_of(workspace, job) / STOP
        again = stop.exists()
        stop.touch()
        if again:
            os.utime(stop, times=(0, time.time() - TERM_AFTER))
        process = process_of(workspace, job)
        if process is not None:
            processes.signal_group(process, signal.SIGTERM if again else signal.SIGINT)
        job.message = "stopping after this step"
    else:
        raise ConflictError(f"this job is {job.state} already")
    people.record(session, by.id, "cancelled a job", name=job.name)


def resume(session: Session, workspace: Workspace, job: Job, *, by: User) -> None:
    """Queue it again; it goes on from its last checkpoint.

    Raises:
        ConflictError: it did not stop.
    """
    if job.state not in ("cancelled", "failed"):
        raise ConflictError(f"this job is {job.state}: there is nothing to resume")
    job.state, job.message, job.ended_at = "queued", "", None
    people.record(session, by.id, "resumed a job", name=job.name)


def directory_of(workspace: Workspace, job: Job) -> Path:
    """Where its run is."""
    return workspace.directory / job.directory


def process_of(workspace: Workspace, job: Job) -> Process | None:
    """Its process: as the table knows it, or as it has noted itself."""
    if job.pid is not None and job.process_started is not None:
        return Process(job.pid, job.process_started)
    note = launch.read_note(directory_of(workspace, job))
    return None if note is None else note.process


def waits_for_people(workspace: Workspace, job: Job) -> bool:
    """Whether it ended because people must compare something; once they have, it is resumed."""
    note = launch.read_note(directory_of(workspace, job)) if job.state == "failed" else None
    return note is not None and note.status == LabelsNeededError.status


class Runner:
    """Looks after the jobs of one workspace; `tick` is one look."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.store = workspace, workspace.store
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock: int | None = None

    def start(self) -> None:
        """Look every second, in a thread."""
        self._thread = threading.Thread(target=self._loop, name="jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; the processes go on."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        for child in self._children.values():
            child.returncode = child.poll() or 0  # it is somebody else's to look after now, and no leak
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def tick(self) -> None:
        """Notice what has ended, then start what is next."""
        with self.store.read() as session:
            running = session.scalars(select(Job).where(Job.state == "running")).all()
        still = [job for job in running if not self._look_at(job)]
        if not still:
            self._start_next()

    def command(self, job: Job) -> list[str]:
        """What its process runs; a run that was begun is resumed."""
        directory = directory_of(self.workspace, job)
        command = [sys.executable, "-P", "-m", "palate.studio.training.launch", str(directory), job.stage]
        command += [str(directory / RECIPE), "--out", job.directory]
        return command + (["--resume"] if lineage.read(directory) is not None else [])

    def _loop(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            try:
                if self._is_ours():
                    self.tick()
            except Exception:  # a busy database or a full disk passes; nobody else would look after the jobs
                traceback.print_exc()

    def _is_ours(self) -> bool:
        """Whether this process is the one that looks after the workspace's jobs."""
        if self._lock is None:
            descriptor = os.open(self.workspace.runs / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def _start_next(self) -> None:
        with self.store.write() as session:
            job = session.scalars(
                select(Job).where(Job.state == "queued").order_by(Job.created_at, Job.id).limit(1)
            ).first()
            if job is None:
                return
            # said before it is done: should the app be killed in between, the process is found by its own note
            job.state, job.started_at, job.pid, job.process_started, job.message = (
                "running",
                time.time(),
                None,
                None,
                "",
            )
            directory = directory_of(self.workspace, job)
            directory.mkdir(parents=True, exist_ok=True)
            for name in (launch.FILE, STOP):
                (directory / name).unlink(missing_ok=True)
        try:
            child = self._spawn(job)
        except OSError as error:
            self._end(job.id, "failed", f"could not be started: {error}")
            return
        self._children[job.id] = child
        process = processes.find(child.pid)
        with self.store.write() as session:
            job = session.get_one(Job, job.id)
            job.pid, job.process_started = child.pid, process.started if process else None
        if (directory / STOP).exists() and process is not None:  # it was cancelled before there was a process
            processes.signal_group(process, signal.SIGINT)

    def _spawn(self, job: Job) -> subprocess.Popen[bytes]:
        directory = directory_of(self.workspace, job)
        (directory / RECIPE).write_text(job.recipe, encoding="utf-8")
        return processes.begin(self.command(job), log=directory / LOG, directory=self.workspace.directory)

    def _look_at(self, job: Job) -> bool:
        """Whether it has ended; if so, that is now in the table."""
        process = process_of(self.workspace, job)
        directory = directory_of(self.workspace, job)
        if process is None:
            lost = time.time() > (job.started_at or 0) + FOUND_WITHIN
            return lost and self._end(job.id, "failed", "could not be started: the app was stopped meanwhile")
        child = self._children.get(job.id)
        if (child.poll() is None) if child else processes.is_alive(process):
            _hurry(directory, process)
            return False
        note = launch.read_note(directory)
        status = None if note is None or note.process != process else note.status
        if status == 0:
            self._use(job)
        elif (directory / STOP).exists():
            self._end(job.id, "cancelled", last_word(directory) if status is not None else "stopped at once")
        else:
            self._end(job.id, "failed", KILLED if status is None else last_word(directory))
        return True

    def _use(self, job: Job) -> None:
        """Do with the result what the job says; the job is done in the same transaction."""
        try:
            apply = outcomes.prepare(self.workspace, job)
            with self.store.write() as session:
                fresh = session.get_one(Job, job.id)
                by = session.get(User, fresh.created_by or "")
                for plan in apply(session, fresh):
                    enqueue(session, self.workspace, plan, by=by)
                fresh.state, fresh.ended_at = "done", time.time()
        except OperationalError:  # the database is busy; it is looked at again
            raise
        except Exception as error:  # what one job left behind must not keep the others waiting
            if not isinstance(error, PalateError):
                traceback.print_exc()
            self._end(job.id, "failed", f"it ran to its end, but its result cannot be used: {error}")
        self._children.pop(job.id, None)

    def _end(self, job_id: str, state: str, message: str) -> bool:
        with self.store.write() as session:
            job = session.get_one(Job, job_id)
            job.state, job.message, job.ended_at = state, message, time.time()
        self._children.pop(job_id, None)
        return True


def last_word(directory: Path) -> str:
    """The one clear line of a log: what `palate` said last, else the last line of all."""
    lines = [line for line in tail(directory / LOG).splitlines() if line.strip()]
    said = [line.removeprefix("palate: ") for line in lines if line.startswith("palate: ")]
    word = (said or lines or ["it ended without a word"])[-1].strip()
    return word.removesuffix("; go on with --resume")[:1000]


def tail(path: Path, *, most: int = 16_000) -> str:
    """The end of a file that is being written; whole lines, without what colours a terminal."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        text = file.read().decode("utf-8", errors="replace")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        return text if size <= most else text.partition("\n")[2]
    return ""


async def start(app: FastAPI) -> None:
    """Look after the workspace's jobs while the app runs, if that is not somebody else's part."""
    app.state.jobs = Runner(app.state.workspace)
    if app.state.with_jobs:
        app.state.jobs.start()


async def stop(app: FastAPI) -> None:
    """Look no more; running jobs go on without the app."""
    app.state.jobs.stop()


def _hurry(directory: Path, process: Process) -> None:
    """A job that was asked to stop and has not: SIGTERM after a while, then SIGKILL."""
    with suppress(FileNotFoundError):
        asked = time.time() - (directory / STOP).stat().st_mtime
        if asked > TERM_AFTER + KILL_AFTER:
            processes.signal_group(process, signal.SIGKILL)
        elif asked > TERM_AFTER:
            processes.signal_group(process, signal.SIGTERM)


def _new_directory(session: Session, workspace: Workspace, name: str) -> tuple[int, str]:
    """``runs/`` and the name; with a number, which comes first, if there is one of that name already."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "job"
    number = 1
    while True:
        directory = f"runs/{slug}" if number == 1 else f"runs/{slug}-{number}"
        taken = session.scalar(select(func.count()).where(Job.directory == directory))
        if not taken and not (workspace.directory / directory).exists():
            return number, directory
        number += 1
