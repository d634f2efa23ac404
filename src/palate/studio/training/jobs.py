"""Jobs: sampling, training, scoring and evaluation, each in a process of its own, one at a time.

A job is a line of the table `Job` and a run directory. The `Runner` looks after them every second: it starts the oldest
that waits, notices which have ended, and does with their results what the job says (`outcomes`). Processes outlive the
app; a new one finds them again.

    queued --start--> running --status 0--> done          running --SIGINT, by us--> cancelled --resume--> queued
                              --anything else--> failed --resume--> queued

One that failed with the status of `LabelsNeededError` waits for people: nothing went wrong, and the pages say so.

A job is cancelled politely: SIGINT lets the run finish its step and write a checkpoint; SIGTERM and SIGKILL follow if
it does not end, at once when it is cancelled a second time.

Where the workspace names a Ray cluster, training is sent there as a job of Ray's under a name that is in the table
before it is sent: so it is sent once, whoever looks after it is killed when. It writes into the same run directory, on
a disk that both see, and the pages read what they always do.

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

from palate.cluster.ray_jobs import RayJobs, UnreachableError
from palate.errors import ConflictError, LabelsNeededError, NotFoundError, PalateError, RunError
from palate.feedback.store import people
from palate.feedback.store.tables import Job, User
from palate.run import lineage
from palate.studio.training import launch, outcomes, processes
from palate.studio.training.processes import Process
from palate.studio.training.progress import last_word
from palate.studio.training.recipebook import Plan, on_clusters
from palate.studio.web.workspace import Workspace

RECIPE = "job.toml"
LOOK_EVERY = 1.0
TERM_AFTER = 180.0
"""Seconds from SIGINT to SIGTERM: the step at hand may be long."""
KILL_AFTER = 20.0
"""Seconds from SIGTERM to SIGKILL."""
FOUND_WITHIN = 60.0
"""A process that was started just before the app was killed has written its note by then."""

WAITS = "waits for people"
"""The state of a job that ended because people must compare something; once they have, it is resumed."""

KILLED = "the process was killed from outside, perhaps for lack of memory; resume goes on from the last checkpoint"
FORGOTTEN = "its cluster knows it no more: its head was started anew; resume goes on from the last checkpoint"
UNSEEN = "it ran to its end on the cluster, and what it wrote is not seen here: both must see the same disk"
STOPPING = "stopping after this step"
WAITING = "; it is waited for"
"""The end of a message for as long as a cluster does not answer."""


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
        stop = directory_of(workspace, job) / launch.STOP
        again = stop.exists()
        stop.write_text(launch.AT_ONCE if again else "")
        if again:
            os.utime(stop, times=(0, time.time() - TERM_AFTER))
        process = process_of(workspace, job)
        if process is not None:
            processes.signal_group(process, signal.SIGTERM if again else signal.SIGINT)
        job.message = STOPPING
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
    """Its process on this machine: as the table knows it, or as it has noted itself."""
    if job.cluster is not None:
        return None
    if job.pid is not None and job.process_started is not None:
        return Process(job.pid, job.process_started)
    note = launch.read_note(directory_of(workspace, job))
    return None if note is None else note.process


def state_of(workspace: Workspace, job: Job) -> str:
    """As every page says it: as in the table, but that nothing failed where people must compare something first."""
    note = launch.read_note(directory_of(workspace, job)) if job.state == "failed" else None
    return WAITS if note is not None and note.status == LabelsNeededError.status else job.state


class Runner:
    """Looks after the jobs of one workspace; `tick` is one look."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.store = workspace, workspace.store
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._unseen: dict[str, float] = {}
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
        command = [sys.executable, "-P", "-m", "palate.studio.training.launch", str(directory)]
        command += [job.stage] if job.cluster is None else ["cluster", "--stage", job.stage]
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
            job.state, job.started_at, job.message = "running", time.time(), ""
            job.pid = job.process_started = job.cluster = job.submission = None
            if self.workspace.settings.cluster and job.stage in on_clusters():
                job.cluster = self.workspace.settings.cluster
                job.submission = f"palate-{job.id}-{job.started_at * 1000:.0f}"
            directory = directory_of(self.workspace, job)
            directory.mkdir(parents=True, exist_ok=True)
            for name in (launch.FILE, launch.STOP):
                (directory / name).unlink(missing_ok=True)
        if job.cluster is not None:
            self._look_at(job)
            return
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
        if (directory / launch.STOP).exists() and process is not None:  # it was cancelled before there was a process
            processes.signal_group(process, signal.SIGINT)

    def _spawn(self, job: Job) -> subprocess.Popen[bytes]:
        directory = directory_of(self.workspace, job)
        (directory / RECIPE).write_text(job.recipe, encoding="utf-8")
        return processes.begin(self.command(job), log=directory / launch.LOG, directory=self.workspace.directory)

    def _look_at(self, job: Job) -> bool:
        """Whether it has ended; if so, that is now in the table."""
        if job.cluster is not None and job.submission is not None:
            return self._look_there(job, RayJobs(job.cluster), job.submission)
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
        return self._conclude(job, None if note is None or note.process != process else note.status)

    def _conclude(self, job: Job, status: int | None, *, lost: str = KILLED) -> bool:
        """Do what follows from its exit status; None: it has none."""
        directory = directory_of(self.workspace, job)
        if status == 0:
            self._use(job)
        elif (directory / launch.STOP).exists():
            self._end(job.id, "cancelled", last_word(directory) if status is not None else "stopped at once")
        else:
            self._end(job.id, "failed", lost if status is None else last_word(directory))
        return True

    def _look_there(self, job: Job, there: RayJobs, name: str) -> bool:
        """The same of a job that is a cluster's; one that does not answer is waited for, and the page says so."""
        directory = directory_of(self.workspace, job)
        stop, note = directory / launch.STOP, launch.read_note(directory)
        try:
            try:
                now = there.look(name)
            except NotFoundError:
                if note is not None:
                    return self._conclude(job, note.status, lost=FORGOTTEN)
                if stop.exists():
                    return self._end(job.id, "cancelled", "stopped before it was sent")
                return self._send(job, there, name)
            if stop.exists() and not now.over:
                there.stop(name)
        except RunError as error:
            if stop.exists() and stop.read_text() == launch.AT_ONCE:
                return self._end(job.id, "cancelled", f"given up, and it may go on there: {error}")
            self._say(job, f"{error}{WAITING}")
            return False
        if job.message.endswith(WAITING):
            self._say(job, STOPPING if stop.exists() else "")
        if now.state == "SUCCEEDED" and (note is None or note.status is None):
            since = self._unseen.setdefault(name, time.time())  # a disk may take a while to show it
            return time.time() > since + FOUND_WITHIN and self._end(job.id, "failed", UNSEEN)
        if now.state == "FAILED" and note is None:  # before anything of ours began
            return self._end(job.id, "failed", now.last_word.removeprefix("palate: "))
        if not now.over:
            return False
        status = now.status if now.state == "FAILED" else note.status if note is not None else None
        return self._conclude(job, None if status is not None and status < 0 else status)

    def _send(self, job: Job, there: RayJobs, name: str) -> bool:
        """Have a cluster run it; whether it has ended so, as it is refused."""
        directory = directory_of(self.workspace, job)
        (directory / RECIPE).write_text(job.recipe, encoding="utf-8")
        (directory / launch.SENT).write_text(name)
        try:
            there.submit(name, launch.line_for_cluster(self.workspace.directory, directory, name, self.command(job)))
        except UnreachableError:
            raise
        except RunError as error:
            return self._end(job.id, "failed", str(error))
        return False

    def _say(self, job: Job, message: str) -> None:
        if job.message != message:
            with self.store.write() as session:
                session.get_one(Job, job.id).message = message

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
        asked = time.time() - (directory / launch.STOP).stat().st_mtime
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
