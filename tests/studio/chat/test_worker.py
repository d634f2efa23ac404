"""The worker as a process, spoken to over its pipes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palate.errors import ModelError
from palate.lm.sources import zoo
from palate.recipe import Sampling
from palate.records import Prompt, Provenance, Response
from palate.rollout.local import LocalEngine
from palate.studio.chat import worker as module

CHATTY = """
import os
from palate.lm.sources import zoo
from palate.studio.chat import worker
load = zoo.load_language_model
def chatty(*args, **settings):
    print("a library that prints")
    os.write(1, b"and one that writes\\n")
    return load(*args, **settings)
zoo.load_language_model = chatty
worker.main()
"""


class Worker:
    """A worker whose models print while they load."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}  # select sees what is not read yet
        self.process = subprocess.Popen([sys.executable, "-c", CHATTY], **pipes, env=environment)
        self.ids = map(str, range(1, 1000))

    def send(self, op: str, **fields: Any) -> str:
        id = next(self.ids)
        self.write(json.dumps({"op": op, "id": id, **fields}))
        return id

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 200)[0], "the worker is silent"
        event: dict[str, Any] = json.loads(self.process.stdout.readline())
        return event

    def read_until(self, *types: str) -> list[dict[str, Any]]:
        events = [self.read()]
        while events[-1]["type"] not in types:
            events.append(self.read())
        return events


@pytest.fixture(scope="module")
def shared() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.process.communicate(timeout=60)
    assert worker.process.returncode == 0


@pytest.fixture
def worker(shared: Worker) -> Worker:
    """In a state to answer, whatever the test before has asked."""
    marker = shared.send("unload", model="marker")
    while shared.read() != {"type": "unloaded", "id": marker, "model": "marker"}:
        pass
    return shared


def says(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def test_generation(worker: Worker) -> None:
    id = worker.send("load", model="tiny")
    loaded = zoo.load_language_model("tiny")
    assert worker.read() == {"type": "loaded", "id": id, "model": "tiny", "weights": loaded.weights}

    settings = {"temperature": 0.9, "max_new_tokens": 16}
    id = worker.send(
        "generate", model="tiny", prompt=says("Hi"), sampling=settings, seed=7, sample_index=2, num_responses=2
    )
    events = worker.read_until("done")
    events += worker.read_until("done")
    engine = LocalEngine(loaded.model, loaded.chat)
    expected = engine.generate([Prompt.from_text("Hi")], Sampling(**settings), num_responses=4, key=(7, "sample"))
    assert {event["id"] for event in events} == {id}
    for index in range(2):
        *pieces, done = (event for event in events if event["index"] == index)
        response = Response.model_validate(done["response"])
        assert "".join(piece["text"] for piece in pieces) == response.text == expected.texts[2 + index]
        assert all(piece["text"] for piece in pieces)
        assert response.provenance is not None
        assert response.provenance.logprob == pytest.approx(float(expected.logprobs[2 + index].sum()), abs=1e-3)
        assert response.provenance.model_copy(update={"logprob": None}) == Provenance(
            model="tiny",
            checkpoint=loaded.weights,
            temperature=0.9,
            max_new_tokens=16,
            seed=7,
            sample_index=2 + index,
            ended=bool(expected.ended[2 + index]),
        )
        assert done["finish_reason"] == ("stop" if expected.ended[2 + index] else "length")
        assert done["prompt_tokens"] == len(loaded.chat.prompt_tokens(Prompt.from_text("Hi")))
        assert done["response_tokens"] == int(expected.sequences.mask[2 + index].sum())


def test_temperature_zero_is_greedy(worker: Worker) -> None:
    texts = set()
    for seed in (1, 2):
        sampling = {"temperature": 0, "max_new_tokens": 8}
        worker.send("generate", model="tiny", prompt=says("Hi"), sampling=sampling, seed=seed)
        done = worker.read_until("done")[-1]
        assert done["response"]["provenance"]["temperature"] == 0.0
        assert done["response"]["provenance"]["logprob"] == 0.0
        texts.add(done["response"]["text"])
    assert len(texts) == 1


def test_generations_take_turns_and_one_can_be_cancelled(worker: Worker, talker: Path) -> None:
    long = {"model": str(talker), "prompt": says("Hi"), "sampling": {"max_new_tokens": 1500}}
    first = worker.send("generate", **long)
    assert worker.read()["id"] == first
    second = worker.send("generate", **long, sample_index=1)
    while worker.read()["id"] != second:
        pass
    assert [worker.read()["id"] for _ in range(20)] == [first, second] * 10  # every token of the talker is a piece
    worker.write(json.dumps({"op": "cancel", "id": first}))
    events = worker.read_until("cancelled", "done")
    assert events[-1] == {"type": "cancelled", "id": first}
    assert {worker.read()["id"] for _ in range(20)} == {second}
    worker.write(json.dumps({"op": "cancel", "id": first}))  # no longer there: nothing is said about it
    worker.write(json.dumps({"op": "cancel", "id": second}))
    events = worker.read_until("cancelled", "done")
    assert events[-1] == {"type": "cancelled", "id": second}
    assert {event["id"] for event in events} == {second}


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("{", "ValidationError", "Invalid JSON"),
        ('{"op": "dance", "id": "x"}', "ValidationError", "'dance'"),
        ('{"op": "load", "id": "x"}', "ValidationError", "load.model: Field required"),
        ('{"op": "load", "id": "x", "model": "no/such/model"}', "ModelError", "no model there; name a directory"),
        (
            '{"op": "generate", "id": "x", "model": "tiny", "prompt": '
            '{"messages": [{"role": "assistant", "content": ""}]}}',
            "ValidationError",
            "a prompt ends with a user or system turn",
        ),
        (
            json.dumps({"op": "generate", "id": "x", "model": "tiny", "prompt": says("a" * 2000)}),
            "DataError",
            "do not fit",
        ),
        ('{"op": "unload", "id": ["x"], "model": "\\ud800"}', "ValidationError", ""),
    ],
)
def test_a_mistake_is_one_line_and_the_worker_lives(worker: Worker, line: str, kind: str, message: str) -> None:
    worker.write(line)
    event = worker.read()
    assert event["type"] == "error"
    assert event["id"] == ("x" if '"id": "x"' in line else "")
    assert event["kind"] == kind
    assert message in event["message"]
    assert "\n" not in event["message"]
    worker.write('{"op": "unload", "id": "y", "model": "marker"}')
    assert worker.read()["id"] == "y"


PARENT = """
import subprocess, sys, time
worker = subprocess.Popen(
    [sys.executable, "-m", "palate.studio.chat.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
worker.stdin.write(sys.argv[1].encode() + b"\\n")
worker.stdin.flush()
print(worker.stdout.readline(), flush=True)
time.sleep(60)
"""


def test_it_ends_with_the_process_that_started_it_however_that_ends(talker: Path) -> None:
    request = {"op": "generate", "id": "1", "model": str(talker), "prompt": says("Hi"), "num_responses": 16}
    line = json.dumps(request | {"sampling": {"max_new_tokens": 2000}})
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, line], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert b"piece" in parent.stdout.readline()
        parent.send_signal(signal.SIGKILL)
        # the worker has the other end of this pipe, so it is closed when both are gone
        assert parent.stderr.read() == b""
    assert parent.returncode == -signal.SIGKILL


class FakeModels:
    """Counts what is loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: list[str] = []
        monkeypatch.setattr(zoo, "load_language_model", self._load)

    def _load(self, name: str, *, chat_template: str) -> object:
        self.loads.append(name)
        return object()


def test_the_models_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, models = FakeModels(monkeypatch), module.Models(2)
    first = models.get("a")
    models.get("b")
    assert models.get("a") is first
    models.get("c")  # instead of b
    assert models.get("a") is first
    models.get("b")
    assert fake.loads == ["a", "b", "c", "b"]
    models.forget("a")
    models.forget("never there")
    assert models.get("a") is not first


def test_a_model_written_anew_is_loaded_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake, models = FakeModels(monkeypatch), module.Models(2)
    directory = tmp_path / "model"
    directory.mkdir()
    with pytest.raises(ModelError, match="no model there"):
        models.get(str(directory))
    (directory / "config.json").write_text("{}")
    for text in ("old", "new"):
        (directory / "model.new").write_text(text)
        (directory / "model.new").rename(directory / "model.safetensors")
        assert models.get(str(directory)) is models.get(str(directory))
    assert fake.loads == [str(directory)] * 2
