"""A workspace's training on a real cluster: sent by `palate worker`, which is killed, and looked after by another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w
from tests.cluster.conftest import a_cluster, add

from palate.feedback.store import people
from palate.feedback.store.tables import Job, Model
from palate.records import Demonstration, Prompt, Response
from palate.studio.serve import create
from palate.studio.training import jobs, launch, progress
from palate.studio.training.recipebook import Plan
from palate.studio.web.workspace import Settings, Workspace

pytestmark = pytest.mark.skipif("PALATE_WITH_RAY" not in os.environ, reason="set PALATE_WITH_RAY=1: a minute")
SOURCE = Path(__file__).parents[2]
PATIENCE = 300.0
STEPS = 120


@contextmanager
def a_worker(workspace: Workspace, address: str) -> Iterator[subprocess.Popen[str]]:
    """`palate worker`, as somebody starts it who wants training on that cluster."""
    command = [sys.executable, "-m", "palate", "worker", "--workspace", str(workspace.directory), "--cluster", address]
    environment = os.environ | {"PYTHONPATH": f"{SOURCE / 'src'}", "PALATE_PEER_TIMEOUT": "120"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def until(reached: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def halted(directory: Path) -> list[psutil.Process]:
    """The trainers of a run, which go on when they are told to."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "RANK" in process.environ() and str(directory / jobs.RECIPE) in process.cmdline():
                process.suspend()
                found.append(process)
    return found


def is_told_to_stop(pid: int) -> bool:
    """Whether SIGINT waits for it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    waiting = next(line for line in lines if line.startswith("ShdPnd:"))
    return bool(int(waiting.split()[1], 16) & 1 << (signal.SIGINT - 1))


def a_job(workspace: Workspace, **more: Any) -> str:
    """SFT by two trainers, long enough to be stopped in the middle."""
    shown = (Demonstration(prompt=Prompt.from_text(f"What is {n}?"), response=Response(text=f"{n}.")) for n in range(8))
    data = workspace.data / "demonstrations.jsonl"
    data.write_text("".join(each.to_json() + "\n" for each in shown))
    recipe = {
        "model": "tiny",
        "precision": "fp32",
        "data": {"path": "data/demonstrations.jsonl"},
        "checkpoint_every": 5,
        "cluster": {"trainers": 2},
    }
    with workspace.store.write() as session:
        session.add(parent := Model(name="tiny", path="tiny", created_at=0.0))
        session.flush()
        then = {"do": "register", "kind": "policy", "parent_id": parent.id}
        plan = Plan(name="away", command="sft", recipe=tomli_w.dumps(recipe | more), then=then)
        return jobs.enqueue(session, workspace, plan, by=None).id


def test_a_job_outlives_its_worker_and_is_stopped_and_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The worker is killed while it trains; the next one finds the job by its name, stops it, and resumes it."""
    pytest.importorskip("aiohttp_cors", reason="a head that takes jobs needs ray[default]")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # the cluster's `python`
    workspace = create(tmp_path / "taste", Settings(model="tiny"))
    with workspace.store.write() as session:
        admin = people.create_user(session, "admin", "a long password", "admin")
    job = a_job(workspace, epochs=STEPS)
    directory = workspace.directory / "runs" / "away"
    rows = directory / "metrics.jsonl"

    def now() -> Job:
        with workspace.store.read() as session:
            return session.get_one(Job, job)

    def steps() -> int:
        return rows.read_text().count("\n") if rows.exists() else 0

    def told() -> str:
        return f"{now().state}: {now().message}\n{progress.tail(directory / launch.LOG)}"

    with a_cluster(monkeypatch, include_dashboard=True, dashboard_port=0) as cluster:
        add(cluster, 2)
        address = f"http://{cluster.head_node.webui_url}"
        with a_worker(workspace, address) as worker:
            until(lambda: steps() >= 2 or now().state == "failed", told)
            assert now().state == "running", told()
            os.kill(worker.pid, signal.SIGKILL)
        name, seen = now().submission, steps()
        until(lambda: steps() > seen, told)
        trainers = halted(directory)  # however quick this machine is, they are told to stop before they are through
        assert len(trainers) == 2
        with workspace.store.write() as session:
            jobs.cancel(session, workspace, session.get_one(Job, job), by=admin)
        with a_worker(workspace, address):
            until(lambda: all(is_told_to_stop(each.pid) for each in trainers), told)
            for each in trainers:
                each.resume()
            until(lambda: now().state != "running", told)
            assert (now().state, now().submission) == ("cancelled", name), told()
            assert now().message == f"stopped at step {steps()} of {STEPS}", told()
            assert list((directory / "checkpoints").glob(f"step-*{steps()}")), "a checkpoint of that very step"
            with workspace.store.write() as session:
                jobs.resume(session, workspace, session.get_one(Job, job), by=admin)
            until(lambda: now().state not in ("queued", "running"), told)
        assert (now().state, now().message) == ("done", "made the model away"), told()
        assert now().submission != name
        assert steps() == STEPS
    with workspace.store.read() as session:
        assert session.query(Model).filter(Model.job_id == job).one().path == "runs/away"
    workspace.store.close()
