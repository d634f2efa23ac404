"""Several web processes at one address, with real processes that are really killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from tests.postgres import Server
from tests.studio.fake import events_of

from palate.cli import main
from palate.errors import PalateError
from palate.feedback.store import people
from palate.feedback.store.tables import ChatMessage, Conversation, Job, Model, User
from palate.studio import serve as serve_module
from palate.studio.app import create_app
from palate.studio.chat.hub import Client
from palate.studio.serve import create
from palate.studio.supervisor import MOST_EARLY, Child, HopelessError, _keep, close_what_nobody_writes, supervise
from palate.studio.training.jobs import Runner
from palate.studio.web.access import COOKIE
from palate.studio.web.workspace import Settings, Workspace

PASSWORD = "a long password"

PATIENCE = 120.0
"""Seconds until a test gives up; the machine may be busy."""


@dataclass(slots=True, kw_only=True)
class Served:
    """`palate studio --processes 2`, and what it said."""

    process: subprocess.Popen[str]
    workspace: Workspace
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return next(found[0] for line in self.said if (found := re.findall(r"http://127\.0\.0\.1:\d+", line)))

    def children(self, module: str) -> list[psutil.Process]:
        return [each for each in psutil.Process(self.process.pid).children() if module in _words(each)]

    def wait(self, what: Callable[[], object]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < give_up, f"it does not come; the studio said {self.said}"
            time.sleep(0.02)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie is one, too
        return []


@pytest.fixture(scope="module")
def served(talker: Path, tmp_path_factory: pytest.TempPathFactory, postgres: Server) -> Iterator[Served]:
    with postgres.empty() as url:
        directory = tmp_path_factory.mktemp("several") / "workspace"
        workspace = create(directory, Settings(database=url))
        with workspace.store.write() as session:
            session.add(Model(name="talker", path=str(talker), created_at=1.0))
            people.create_user(session, "Ada", PASSWORD, "admin")
        command = [sys.executable, "-m", "palate", "studio", "--workspace", str(directory), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--processes", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        served = Served(process=process, workspace=workspace)
        threading.Thread(target=_listen, args=(served,), daemon=True).start()
        served.wait(lambda: any("http://127" in line for line in served.said))
        yield served
        process.kill()
        process.communicate()
        workspace.store.close()


def _listen(served: Served) -> None:
    assert served.process.stdout is not None
    served.said.extend(iter(served.process.stdout.readline, ""))


@pytest.fixture
def ada(served: Served) -> Iterator[httpx.Client]:
    """Signed in; every request is a connection of its own, so that either process may get it."""
    with served.workspace.store.write() as session:
        user = session.scalars(select(User).where(User.name == "Ada")).one()
        signed_in = people.open_session(session, user)
    headers = {"X-CSRF-Token": signed_in.csrf, "Connection": "close", "Accept": "application/json"}
    with httpx.Client(base_url=served.url, cookies={COOKIE: signed_in.token}, headers=headers, timeout=120) as client:
        yield client


def begin(ada: httpx.Client) -> str:
    [model] = [each for each in ada.get("/api/chat/models").json() if each["name"] == "talker"]
    body = {"model_id": model["id"], "settings": {"max_new_tokens": 1900}}
    conversation = ada.post("/api/chat/conversations", json=body)
    assert conversation.status_code == 201, conversation.text
    return f"/api/chat/conversations/{conversation.json()['id']}"


def answer_of(ada: httpx.Client, conversation: str) -> dict[str, object]:
    answer: dict[str, object] = ada.get(conversation).json()["turns"][-1]["variants"][0]
    return answer


class Reading(threading.Thread):
    """Says something and reads the answer until it ends, however that is."""

    def __init__(self, ada: httpx.Client, conversation: str) -> None:
        super().__init__(daemon=True)
        self.ada, self.conversation, self.text = ada, conversation, ""
        self.start()

    def run(self) -> None:
        try:
            with self.ada.stream("POST", f"{self.conversation}/messages", json={"text": "Hi"}) as response:
                for text in response.iter_text():
                    self.text += text
        except httpx.TransportError:
            self.text += "<lost>"


def test_an_answer_is_stopped_by_whichever_process_is_asked(served: Served, ada: httpx.Client) -> None:
    for _ in range(4):  # one of two processes has it: the other is asked sooner or later
        conversation = begin(ada)
        reading = Reading(ada, conversation)
        served.wait(lambda reading=reading: reading.text.count("event: piece") > 3)
        stopped = ada.post(f"{conversation}/stop")
        assert stopped.status_code == 200
        reading.join(PATIENCE)
        pieces = "".join(data["text"] for kind, data in events_of(reading.text) if kind == "piece")
        answer = answer_of(ada, conversation)
        assert (answer["state"], answer["text"]) == ("stopped", pieces), "what was read is what is kept"


def test_both_processes_are_counted_in_one_place(served: Served, ada: httpx.Client) -> None:
    for _ in range(20):
        assert ada.get("/api/chat/models").status_code == 200
    counted = []
    for _ in range(6):
        text = ada.get("/metrics").text
        [line] = [
            each
            for each in text.splitlines()
            if each.startswith("palate_http_request_seconds_count") and "/api/chat/models" in each
        ]
        counted.append(float(line.split()[-1]))
    assert counted[0] >= 20
    assert counted == [counted[0]] * 6, "whichever process answers"


def test_a_web_process_that_is_killed_is_replaced_and_what_it_wrote_is_closed(
    served: Served, ada: httpx.Client
) -> None:
    conversation = begin(ada)
    reading = Reading(ada, conversation)
    served.wait(lambda: "event: start" in reading.text and answer_of(ada, conversation)["text"])  # some of it is kept
    before = served.children("palate.studio.serve")
    assert len(before) == 2
    for process in before:  # whichever writes it
        process.kill()
    reading.join(PATIENCE)
    assert reading.text.endswith("<lost>") or "event: end" not in reading.text
    served.wait(lambda: len(served.children("palate.studio.serve")) == 2)
    assert {each.pid for each in served.children("palate.studio.serve")}.isdisjoint(each.pid for each in before)
    served.wait(lambda: answer_of(ada, conversation)["state"] == "stopped")
    assert answer_of(ada, conversation)["text"]
    again = ada.post(f"{conversation}/stop")
    assert again.status_code == 200
    assert sum("was ended by SIGKILL; another one is started" in line for line in served.said) >= 2


def test_a_models_process_that_is_killed_is_replaced(served: Served, ada: httpx.Client) -> None:
    conversation = begin(ada)
    reading = Reading(ada, conversation)
    served.wait(lambda: reading.text.count("event: piece") > 3)
    [hub] = served.children("palate.studio.chat.hub")
    hub.kill()
    reading.join(PATIENCE)
    assert events_of(reading.text)[-1][0] == "end", "the reader is told"
    assert answer_of(ada, conversation)["state"] == "stopped"
    other = begin(ada)
    reading = Reading(ada, other)
    served.wait(lambda: reading.text.count("event: piece") > 3)
    assert ada.post(f"{other}/stop").status_code == 200


def test_nothing_outlives_the_supervisor(served: Served) -> None:
    """The last test of the module: it is gone afterwards, without a chance to clean up."""
    everybody = psutil.Process(served.process.pid).children(recursive=True)
    assert len(everybody) >= 3
    served.process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(everybody, timeout=PATIENCE)
    assert alive == []


def test_ctrl_c_ends_all_of_them_with_what_was_written(talker: Path, tmp_path: Path) -> None:
    workspace = create(tmp_path / "workspace")
    workspace.store.close()
    command = [sys.executable, "-m", "palate", "studio", "--workspace", str(tmp_path / "workspace"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--processes", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = re.findall(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
    assert httpx.get(f"{url}/healthz", timeout=PATIENCE).json()["status"] == "ok"
    everybody = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=PATIENCE)[1]
    assert (process.returncode, error) == (0, "")
    assert psutil.wait_procs(everybody, timeout=10)[1] == []


def test_a_process_that_ends_at_once_again_and_again_is_given_up() -> None:
    child = Child(name="web process 1", command=[sys.executable, "-c", "raise SystemExit(3)"])
    child.start()
    for number in range(1, MOST_EARLY):
        child.process.wait()
        assert _keep([child]) == 1
        assert child.early == number
    child.process.wait()
    with pytest.raises(HopelessError, match="web process 1 ends as soon as it is started") as caught:
        _keep([child])
    assert isinstance(caught.value, PalateError)


def test_one_that_served_for_a_while_may_end_as_often_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.studio.supervisor.EARLY_SECONDS", 0.0)
    child = Child(name="web process 1", command=[sys.executable, "-c", ""])
    for _ in range(MOST_EARLY + 1):
        child.start()
        child.process.wait()
        assert child.ended()
    assert child.early == 0


def written_in(workspace: Workspace) -> None:
    """Two conversations, "kept" and "left", with an answer in each that is being written."""
    with workspace.store.write() as session:
        user = people.create_user(session, "Ada", PASSWORD, "admin")
        model = Model(name="one", path="one", created_at=1.0)
        session.add(model)
        session.flush()
        for id in ("kept", "left"):
            session.add(Conversation(id=id, user_id=user.id, model_id=model.id, created_at=1.0, updated_at=1.0))
            session.flush()
            for position, role in enumerate(("user", "assistant")):
                state = "done" if role == "user" else "streaming"
                session.add(
                    ChatMessage(
                        conversation_id=id,
                        position=position,
                        role=role,
                        content=f"of {id}",
                        state=state,
                        created_at=1.0,
                    )
                )


def states(workspace: Workspace) -> dict[str, tuple[str, str]]:
    """Of the answers, by conversation."""
    with workspace.store.read() as session:
        found = session.scalars(select(ChatMessage).where(ChatMessage.role == "assistant")).all()
        return {each.conversation_id: (each.state, each.content) for each in found}


def test_what_an_earlier_start_left_half_written_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = create(tmp_path / "workspace")
    written_in(workspace)
    monkeypatch.setattr(Child, "start", lambda _: (_ for _ in ()).throw(HopelessError("enough")))
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(HopelessError, match="enough"):
        supervise(workspace, listener, processes=2, https=False)
    assert states(workspace) == {"kept": ("stopped", "of kept"), "left": ("stopped", "of left")}
    workspace.store.close()


def test_what_somebody_still_writes_is_left_alone(tmp_path: Path) -> None:
    """Of two answers that are being written, that of which the hub knows."""
    workspace = create(tmp_path / "workspace")
    written_in(workspace)

    class Knowing(Client):
        async def tags(self) -> set[str]:
            await asyncio.sleep(0)
            return {"kept"}

    assert close_what_nobody_writes(workspace, Knowing(Path("/nowhere"))) == 1
    assert states(workspace) == {"kept": ("streaming", "of kept"), "left": ("stopped", "of left")}
    workspace.store.close()


@pytest.mark.parametrize("given", ["0", "-1", "two", "65"])
def test_a_number_of_processes_that_cannot_be(given: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "palate", "studio", "--processes", given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is no number of processes, 1 to 64" in done.stderr


def test_the_port_of_somebody_else_is_one_clear_line(tmp_path: Path) -> None:
    create(tmp_path / "workspace").store.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "palate", "studio", "--workspace", str(tmp_path / "workspace")]
        done = subprocess.run(
            [*command, "--processes", "2", "--port", port], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def queued(workspace: Workspace) -> str:
    """A job that cannot succeed, and says so: that it was run shows."""
    with workspace.store.write() as session:
        job = Job(name="j", stage="sft", recipe="no_such_key = 1\n", directory="runs/j", created_at=1.0)
        session.add(job)
        session.flush()
        return job.id


def test_a_worker_looks_after_the_jobs_and_ends_when_it_is_asked(tmp_path: Path) -> None:
    workspace = create(tmp_path / "workspace")
    job_id = queued(workspace)
    command = [sys.executable, "-m", "palate", "worker", "--workspace", str(tmp_path / "workspace")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"looking after the jobs of {workspace.directory}\n"

    def state() -> tuple[str, str]:
        with workspace.store.read() as session:
            job = session.get_one(Job, job_id)
            return job.state, job.message

    while state()[0] in ("queued", "running"):
        assert process.poll() is None
        time.sleep(0.05)
    assert state()[0] == "failed"
    assert "'data' is required" in state()[1]
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 0
    workspace.store.close()


def test_without_jobs_they_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = create(tmp_path / "workspace")
    looked = threading.Event()
    monkeypatch.setattr("palate.studio.training.jobs.LOOK_EVERY", 0.01)
    # only this workspace's: an app of another test may look after its own meanwhile
    monkeypatch.setattr(Runner, "tick", lambda runner: looked.set() if runner.workspace is workspace else None)
    for with_jobs in (False, True):
        with TestClient(create_app(workspace, with_jobs=with_jobs)):
            assert looked.wait(60 if with_jobs else 0.3) is with_jobs


@pytest.mark.parametrize("processes", [1, 2])
def test_no_jobs_reaches_whoever_would_look_after_them(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "workspace").store.close()
    given: list[bool] = []
    commands: list[list[str]] = []
    monkeypatch.setattr(serve_module, "_run", lambda app, _: given.append(app.state.with_jobs))

    def started(child: Child) -> None:
        commands.append(child.command)
        if child.name == "web process 1":
            raise HopelessError("enough")

    monkeypatch.setattr(Child, "start", started)
    monkeypatch.setattr(Child, "end", lambda _: None)
    for words in ([], ["--no-jobs", "--cluster", "http://head:8265"]):
        main(
            ["studio", "--workspace", str(tmp_path / "workspace"), "--port", "0", "--processes", str(processes), *words]
        )
    if processes == 1:
        assert given == [True, False]
    else:
        web = [command for command in commands if "palate.studio.serve" in command]
        assert ["--no-jobs" in command for command in web] == [False, True]
        assert [command[command.index("--cluster") + 1] for command in web] == ["", "http://head:8265"]
