"""Jobs that are sent to a cluster: its head is scripted here, and runs in a shell what it is sent, as Ray does.

With Ray itself: `tests/cluster/test_studio_jobs.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.studio.shops import Shop

from palate.cluster import ray_jobs
from palate.cluster.ray_jobs import RayJobs, UnreachableError
from palate.errors import DataError, RunError
from palate.studio.training import jobs, launch
from palate.studio.training.jobs import Runner
from palate.studio.web.workspace import Workspace

WORKS = """
    from palate.studio.training import launch, processes
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    note = launch.Note(processes.find(os.getpid()), None)
    launch.write_note(here, note)
    (here / "begun").open("a").write(sys.argv[-1] + " ")
    status = 0
    {}
    launch.write_note(here, launch.Note(note.process, status))
    sys.exit(status)
"""
STOPS = """
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        print("palate: stopped at step 3 of 9; go on with --resume")
        status = 130
"""


class Head:
    """What a cluster's head answers, of jobs that are processes here.

    Attributes:
        asked: every request.
        refuses: what it says to each new job, if it takes none.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, subprocess.Popen[str]] = {}
        self.stopped: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.refuses = ""
        self.port = 0
        self.up()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        head = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(head.get)

            def do_POST(self) -> None:
                self._answer(head.post)

            def _answer(self, act: Any) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                head.asked.append((self.command, self.path))
                head.tokens.append(self.headers.get("Authorization"))
                status, said = act(self.path.removeprefix("/api/jobs/"), json.loads(body or "{}"))
                data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def down(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def post(self, path: str, said: dict[str, Any]) -> tuple[int, Any]:
        name, _, what = path.partition("/")
        if what == "stop":
            if name not in self.stopped and self.jobs[name].poll() is None:  # asked again, it does nothing
                self.jobs[name].send_signal(signal.SIGTERM)
            self.stopped.add(name)
            return 200, {"stopped": True}
        if self.refuses:
            return 500, f"Traceback (most recent call last):\n  File somewhere\nValueError: {self.refuses}\n.\n"
        if said["submission_id"] in self.jobs:
            return 500, f"Traceback:\nValueError: Job with submission_id {said['submission_id']} already exists.\n.\n"
        self.told = said["runtime_env"]["env_vars"]
        told = os.environ | self.told
        told["PATH"] = f"{Path(sys.executable).parent}:{told['PATH']}"
        self.jobs[said["submission_id"]] = subprocess.Popen(
            said["entrypoint"],
            shell=True,
            cwd="/",
            env=told,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return 200, {"submission_id": said["submission_id"]}

    def get(self, path: str, _: object) -> tuple[int, Any]:
        if path not in self.jobs:
            return 404, f"Job {path} does not exist"
        status = self.jobs[path].poll()
        if status is None:
            return 200, {"status": "RUNNING", "driver_exit_code": None, "message": "Job is currently running."}
        if path in self.stopped:
            return 200, {"status": "STOPPED", "driver_exit_code": None, "message": "Job was intentionally stopped."}
        if status == 0:
            return 200, {"status": "SUCCEEDED", "driver_exit_code": 0, "message": "Job finished successfully."}
        process = self.jobs[path]
        assert process.stdout is not None
        said = "" if process.stdout.closed else process.stdout.read()
        return 200, {"status": "FAILED", "driver_exit_code": status, "message": f"Job failed, last logs:\n{said}"}

    def end(self) -> None:
        self.down()
        for process in self.jobs.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def head() -> Iterator[Head]:
    head = Head()
    yield head
    head.end()


@pytest.fixture
def sent(shop: Shop, head: Head) -> Shop:
    """A shop whose training is sent there."""
    shop.workspace = Workspace(shop.workspace.directory, cluster=head.address)
    return shop


def names(head: Head) -> list[str]:
    return list(head.jobs)


def begun(shop: Shop, job: str) -> bool:
    return (shop.directory(job) / "begun").exists()


def test_a_job_is_sent_and_its_result_is_used(sent: Shop, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the workspace's directory, under a name that the table has; its log is where every job's is."""
    monkeypatch.setenv("PALATE_PEER_TIMEOUT", "9")
    monkeypatch.setenv("PGPASSWORD", "secret")
    runner = sent.runner(WORKS.format("print('palate: all is well', os.getcwd())"))
    job = sent.job("away")
    sent.until(runner, sent.ended(job))
    done = sent.look(job)
    assert done.state == "done", done.message
    assert (done.cluster, [done.submission], done.pid) == (head.address, names(head), None)
    assert head.told["PALATE_PEER_TIMEOUT"] == "9"
    assert head.told["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
    assert "PGPASSWORD" not in head.told
    log = (sent.directory(job) / launch.LOG).read_text()
    assert log == f"palate: all is well {sent.workspace.directory}\n"


def test_only_what_a_cluster_divides_is_sent(sent: Shop, head: Head) -> None:
    runner = sent.runner(WORKS.format("pass"))
    kept = [sent.job(command=command) for command in ("sample", "eval", "score", "rounds", "compare", "judge")]
    gone = [sent.job(command=command) for command in ("sft", "reward", "ppo", "online-dpo")]
    sent.until(runner, lambda: all(sent.ended(job)() for job in kept + gone))
    assert [sent.look(job).cluster for job in kept] == [None] * 6
    assert [sent.look(job).submission for job in gone] == names(head)


def test_the_command_is_palate_cluster(sent: Shop) -> None:
    runner = sent.runner()
    job = sent.look(sent.job("sft"))
    job.cluster = "http://head:8265"
    words = runner.command(job)
    assert words[1:4] == ["-P", "-m", "palate.studio.training.launch"]
    assert words[5:8] == ["cluster", "--stage", "sft"]
    assert words[9:] == ["--out", "runs/sft"]


def test_a_failure_there_shows_its_one_line(sent: Shop) -> None:
    runner = sent.runner(WORKS.format("print('palate: the data are wrong'); status = 2"))
    job = sent.job()
    sent.until(runner, sent.ended(job))
    assert (sent.look(job).state, sent.look(job).message) == ("failed", "the data are wrong")


def test_a_process_killed_there_is_noticed(sent: Shop) -> None:
    runner = sent.runner(WORKS.format("os.kill(os.getpid(), signal.SIGKILL)"))
    job = sent.job()
    sent.until(runner, sent.ended(job))
    assert (sent.look(job).state, sent.look(job).message) == ("failed", jobs.KILLED)


def test_whoever_looks_after_it_next_finds_it_by_its_name(sent: Shop, head: Head) -> None:
    """Nothing of the one before is left but the table; the job is sent once."""
    gate = sent.workspace.directory / "gate"
    script = WORKS.format("while not Path('gate').exists(): time.sleep(0.05)")
    first = sent.runner(script)
    job = sent.job()
    sent.until(first, lambda: begun(sent, job))
    first.stop()
    gate.touch()
    second = sent.runner(script)
    sent.until(second, sent.ended(job))
    assert sent.look(job).state == "done"
    assert [path for method, path in head.asked if method == "POST"] == ["/api/jobs/"]


def test_a_worker_killed_before_or_while_it_sends_has_sent_it_once(
    sent: Shop, head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = RayJobs.submit
    runner = sent.runner(WORKS.format("pass"))

    class Killed(BaseException):
        pass

    def killed(after: bool) -> Any:
        def submits(self: RayJobs, name: str, line: str) -> None:
            if after:
                submit(self, name, line)
                submit(self, name, line)  # the next one had asked before the first was heard of
            raise Killed

        return submits

    for number, after in enumerate((False, True), 1):
        job = sent.job(f"job {number}")
        monkeypatch.setattr(RayJobs, "submit", killed(after))
        with pytest.raises(Killed):
            runner.tick()
        monkeypatch.setattr(RayJobs, "submit", submit)
        assert (sent.look(job).state, len(names(head))) == ("running", number - (not after))
        sent.until(runner, sent.ended(job))
        assert sent.look(job).state == "done"
        assert len((sent.directory(job) / "begun").read_text().split()) == 1


def test_a_stop_is_passed_on_once_and_it_is_resumed_under_another_name(sent: Shop, head: Head) -> None:
    runner = sent.runner(WORKS.format(STOPS))
    job = sent.job()
    sent.until(runner, lambda: begun(sent, job))
    sent.cancel(job)
    assert sent.look(job).message == jobs.STOPPING
    sent.until(runner, sent.ended(job))
    assert (sent.look(job).state, sent.look(job).message) == ("cancelled", "stopped at step 3 of 9")
    runner.script = WORKS.format("pass")  # type: ignore[attr-defined]
    sent.resume(job)
    sent.until(runner, sent.ended(job))
    assert sent.look(job).state == "done"
    assert len(names(head)) == 2


def test_asked_twice_it_stops_at_once(sent: Shop) -> None:
    """Ray asks once; the process itself looks for the second time."""
    script = """
        import threading
        from palate.studio.training import launch
        told = []
        signal.signal(signal.SIGTERM, lambda *_: told.append(1) or len(told) > 1 and os._exit(7))
        threading.Thread(target=launch._watch, args=(here / launch.STOP,), daemon=True).start()
        (here / "begun").touch()
        while True: time.sleep(0.05)
    """
    runner = sent.runner(script)
    job = sent.job()
    sent.until(runner, lambda: begun(sent, job))
    sent.cancel(job)
    for _ in range(5):
        runner.tick()
    assert sent.look(job).state == "running"
    sent.cancel(job)
    sent.until(runner, sent.ended(job))
    assert (sent.look(job).state, sent.look(job).message) == ("cancelled", "stopped at once")


def test_a_head_that_is_not_there_is_said_and_waited_for(sent: Shop, head: Head) -> None:
    head.down()
    runner = sent.runner(WORKS.format("while not Path('gate').exists(): time.sleep(0.05)"))
    job = sent.job()
    line = f"{head.address} does not answer: Connection refused{jobs.WAITING}"
    sent.until(runner, lambda: sent.look(job).message == line)
    runner.tick()
    assert sent.look(job).state == "running"
    head.up()
    sent.until(runner, lambda: begun(sent, job))
    runner.tick()
    assert sent.look(job).message == ""
    head.down()
    runner.tick()
    assert (sent.look(job).state, sent.look(job).message) == ("running", line)
    (sent.workspace.directory / "gate").touch()
    head.up()
    sent.until(runner, sent.ended(job))
    assert sent.look(job).state == "done"


def test_one_that_is_not_there_can_be_given_up(sent: Shop, head: Head) -> None:
    head.down()
    runner = sent.runner(WORKS.format("pass"))
    job = sent.job()
    runner.tick()
    sent.cancel(job)
    runner.tick()
    assert sent.look(job).state == "running"
    sent.cancel(job)
    runner.tick()
    assert sent.look(job).state == "cancelled"
    assert sent.look(job).message.startswith(f"given up, and it may go on there: {head.address} does not answer")
    head.up()


def test_a_job_that_is_refused_has_failed(sent: Shop, head: Head) -> None:
    head.refuses = "runtime_env is bad"
    runner = sent.runner(WORKS.format("pass"))
    job = sent.job()
    runner.tick()
    assert sent.look(job).state == "failed"
    assert sent.look(job).message == f"{head.address} takes no jobs: 500 ValueError: runtime_env is bad"


def test_another_disk_is_one_line(sent: Shop, head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of that name is there too, with a run of another day."""
    real = launch.line_for_cluster
    elsewhere = sent.workspace.directory.parent / "elsewhere"

    def line(workspace: Path, directory: Path, name: str, command: list[str]) -> str:
        (elsewhere / directory.name).mkdir(parents=True)
        (elsewhere / directory.name / launch.SENT).write_text("palate-another")
        return real(workspace, directory, name, command).replace(str(directory), str(elsewhere / directory.name))

    monkeypatch.setattr(launch, "line_for_cluster", line)
    runner = sent.runner(WORKS.format("pass"))
    job = sent.job()
    sent.until(runner, sent.ended(job))
    assert sent.look(job).state == "failed"
    home = sent.workspace.directory
    assert sent.look(job).message == (f"{home} is not the studio's on the cluster's head: both must see the same disk")


def test_a_result_that_is_not_seen_here_is_one_line(sent: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FOUND_WITHIN", 0.5)
    runner = sent.runner("print('elsewhere')")
    job = sent.job()
    sent.until(runner, sent.ended(job))
    assert (sent.look(job).state, sent.look(job).message) == ("failed", jobs.UNSEEN)


@pytest.mark.parametrize(("status", "state"), [(0, "done"), (None, "failed")])
def test_what_the_head_has_forgotten_is_known_by_its_note(
    status: int | None, state: str, sent: Shop, head: Head
) -> None:
    runner = sent.runner(WORKS.format("print('well')" if status == 0 else STOPS))
    job = sent.job()
    sent.until(runner, lambda: begun(sent, job))
    if status == 0:
        head.jobs[names(head)[0]].wait()
    forgotten, head.jobs = head.jobs, {}
    runner.tick()
    assert sent.look(job).state == state
    assert sent.look(job).message == ("" if status == 0 else jobs.FORGOTTEN)
    head.jobs = forgotten


def test_the_clusters_token_is_sent(head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    there = RayJobs(head.address)

    def asked() -> str | None:
        with pytest.raises(Exception, match="does not exist"):
            there.look("nothing")
        return head.tokens[-1]

    assert asked() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from the home\n")
    assert asked() == "Bearer from the home"
    (tmp_path / "token").write_text("from a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert asked() == "Bearer from a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "said")
    assert asked() == "Bearer said"


def test_what_is_no_head_says_so(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    there = RayJobs(head.address + "/")
    monkeypatch.setattr(head, "get", lambda *_: (200, "<html>hello</html>"))
    with pytest.raises(RunError, match=f"{head.address} is no head of a Ray cluster"):
        there.look("job")
    monkeypatch.setattr(head, "get", lambda *_: (404, "<h1>not here</h1>"))
    with pytest.raises(RunError, match="takes no jobs: 404"):
        there.look("job")
    monkeypatch.setattr(head, "get", lambda *_: (503, "starting"))
    with pytest.raises(UnreachableError, match="takes no jobs: 503 starting"):
        there.look("job")
    monkeypatch.setattr(ray_jobs, "ANSWERS_WITHIN", 0.2)
    monkeypatch.setattr(head, "get", lambda *_: (threading.Event().wait(1), "")[:0] or (200, "{}"))
    with pytest.raises(UnreachableError, match="does not answer: timed out"):
        there.look("job")


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "http://", "http://head:8265/jobs"])
def test_an_address_that_is_none_is_one_line(address: str, shop: Shop) -> None:
    with pytest.raises(DataError, match="name its head, as in http://head:8265"):
        Workspace(shop.workspace.directory, cluster=address)
    config = shop.workspace.directory / "palate.toml"
    kept = config.read_text()
    config.write_text(kept.replace('cluster = ""', f'cluster = "{address}"'))
    with pytest.raises(DataError, match="cluster: "):
        Workspace(shop.workspace.directory)


def test_the_workspace_names_one_and_the_command_line_another(shop: Shop) -> None:
    config = shop.workspace.directory / "palate.toml"
    config.write_text(config.read_text().replace('cluster = ""', 'cluster = "http://head:8265"'))
    assert Workspace(shop.workspace.directory).settings.cluster == "http://head:8265"
    assert Workspace(shop.workspace.directory, cluster="").settings.cluster == ""
    assert Runner(Workspace(shop.workspace.directory)).workspace.settings.cluster == "http://head:8265"
