"""The web process's side, with a real worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from palate.errors import ModelError
from palate.lm.sources.zoo import load_chat
from palate.recipe import ReaderJudge
from palate.records import Message, Prompt
from palate.studio.chat import wire
from palate.studio.chat.generation import Busy, Done, Failed, Generator, Piece, Scored, Serving

HI = [Message(role="user", content="Hi")]
SHORT, LONG = Serving(max_new_tokens=8), Serving(max_new_tokens=1900)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One event loop for the module, for a generator belongs to one; a test that hangs fails."""
    with asyncio.Runner() as runner:

        def in_time(test: Coroutine[Any, Any, None]) -> None:
            runner.run(asyncio.wait_for(test, 200))

        yield in_time


@pytest.fixture(scope="module")
def generators() -> list[Generator]:
    return []


@pytest.fixture
def generator(run: Run, generators: list[Generator], monkeypatch: pytest.MonkeyPatch) -> Generator:
    """The module's generator; a new one after the test that closes it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if not generators:

        async def start() -> None:
            generators.append(Generator(max_streams=2, max_per_user=2))
            await generators[0].start()

        run(start())
    return generators[0]


@pytest.fixture(scope="module", autouse=True)
def _closing(run: Run, generators: list[Generator]) -> Iterator[None]:
    yield
    for generator in generators:
        run(generator.close())


class Wire:
    """All that the worker sends, as the web process reads it."""

    def __init__(self) -> None:
        self.events: list[wire.Event] = []

    def validate_json(self, line: bytes) -> wire.Event:
        self.events.append(EVENT.validate_json(line))
        return self.events[-1]

    async def cancelled(self, count: int) -> None:
        while sum(isinstance(event, wire.Cancelled) for event in self.events) < count:
            await asyncio.sleep(0.01)


EVENT = wire.EVENT


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Wire:
    spy = Wire()
    monkeypatch.setattr(wire, "EVENT", spy)
    return spy


async def collect(generator: Generator, model: object, **settings: Any) -> list[Piece | Done | Failed]:
    settings = {"messages": HI, "sampling": SHORT, "seed": 1, "user": "ada"} | settings
    return [event async for event in generator.stream(str(model), **settings)]


def test_a_generation(generator: Generator, run: Run, talker: Path) -> None:
    async def test() -> None:
        weights = await generator.load(str(talker))
        events = await collect(generator, talker, num_responses=2, sample_index=3)
        for index in range(2):
            *pieces, done = (event for event in events if not isinstance(event, Failed) and event.index == index)
            assert isinstance(done, Done)
            assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == done.response.text
            assert len(done.response.text) == done.response_tokens == 8
            provenance = done.response.provenance
            assert provenance is not None
            assert (provenance.checkpoint, provenance.seed, provenance.sample_index) == (weights, 1, 3 + index)
        again = await collect(generator, talker, sample_index=4)
        assert isinstance(again[-1], Done)
        assert isinstance(done, Done)
        assert again[-1].response.text == done.response.text

    run(test())


def test_two_at_once_are_interleaved(generator: Generator, run: Run, talker: Path, spy: Wire) -> None:
    async def test() -> None:
        sampling = Serving(max_new_tokens=40)
        await asyncio.gather(*(collect(generator, talker, sampling=sampling, user=user) for user in ("ada", "bob")))
        ids = [event.id for event in spy.events if isinstance(event, Piece)]
        assert len(ids) == 80
        assert sum(a != b for a, b in pairwise(ids)) > 40

    run(test())


def test_it_ends_in_the_worker_when_nobody_reads_on(generator: Generator, run: Run, talker: Path, spy: Wire) -> None:
    async def read(started: asyncio.Event) -> None:
        async with aclosing(generator.stream(str(talker), HI, LONG, 1, user="ada")) as events:
            async for _ in events:
                started.set()

    async def test() -> None:
        async with aclosing(generator.stream(str(talker), HI, LONG, 1, user="ada")) as events:
            assert isinstance(await anext(events), Piece)
        await spy.cancelled(1)

        started = asyncio.Event()
        reader = asyncio.create_task(read(started))
        await started.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await spy.cancelled(2)

        async for _ in generator.stream(str(talker), HI, LONG, 1, user="ada"):
            break  # without aclosing: as soon as it is collected
        await spy.cancelled(3)
        assert not any(isinstance(event, Done) for event in spy.events)
        assert not +generator._users

    run(test())


def test_a_user_has_a_limit_and_all_together_have_one(generator: Generator, run: Run, talker: Path, spy: Wire) -> None:
    async def test() -> None:
        ada = [generator.stream(str(talker), HI, LONG, 1, user="ada") for _ in range(3)]
        for events in ada[:2]:
            await anext(events)
        with pytest.raises(Busy, match="2 responses are being written for you already"):
            await anext(ada[2])

        waiting = [asyncio.create_task(collect(generator, talker, user=user)) for user in ("bob", "bob", "eve")]
        await asyncio.sleep(0.1)
        with pytest.raises(Busy):  # those that wait count as well
            await collect(generator, talker, user="bob")
        waiting[0].cancel()  # and leave no trace when they give up
        with suppress(asyncio.CancelledError):
            await waiting[0]
        assert generator._users == {"ada": 2, "bob": 1, "eve": 1}
        asked = {event.id for event in spy.events}
        assert len(asked) == 2  # nothing of theirs has reached the worker
        await ada[0].aclose()
        for task in waiting[1:]:
            assert isinstance((await task)[-1], Done)
        await ada[1].aclose()
        assert not generator._users

    run(test())


def test_principles_reach_the_worker_and_their_scores_come_back(generator: Generator, run: Run) -> None:
    """They are what there is to choose by, and nothing follows them."""

    async def test() -> None:
        drawn = generator.scored(
            "tiny",
            HI,
            SHORT,
            seed=3,
            user="a",
            num_responses=2,
            rewards=(),
            principles=("Be brief", "No lists"),
            judge=ReaderJudge(model="tiny", weight=3.0),
        )
        async with aclosing(drawn) as coming:
            *done, scored = [event async for event in coming]
        assert [type(event) for event in done] == [Done, Done]
        assert isinstance(scored, Scored)
        assert [len(fit) for fit in scored.fits] == [2, 2]
        assert scored.scores == pytest.approx([3 * sum(fit) for fit in zip(*scored.fits, strict=True)])

    run(test())


def test_mistakes(generator: Generator, run: Run, tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(ModelError, match="no model there"):
            await generator.load(str(tmp_path))
        await generator.unload(str(tmp_path))
        with pytest.raises(ValueError, match="at least 1 item"):
            await collect(generator, "tiny", messages=[Message(role="assistant", content="Hi")])
        (failed,) = await collect(generator, "tiny", messages=[Message(role="user", content="a" * 3000)])
        assert isinstance(failed, Failed)
        assert failed.kind == "DataError"
        assert "do not fit the model's context" in failed.message

    run(test())


def test_a_worker_that_is_killed_is_replaced(generator: Generator, run: Run, talker: Path) -> None:
    async def test() -> None:
        streams = [generator.stream(str(talker), HI, LONG, 1, user=user) for user in ("ada", "bob")]
        for events in streams:
            assert isinstance(await anext(events), Piece)
        killed = generator.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        for events in streams:
            *_, last = [event async for event in events]
            assert isinstance(last, Failed)
            assert last.kind == "WorkerDied"
            assert last.message == "the process that holds the models has died: try again"
        assert generator.pid is None
        assert isinstance((await collect(generator, talker))[-1], Done)
        assert generator.pid not in (None, killed)

    run(test())


def test_tools_reach_a_template_that_knows_them(run: Run, talker: Path) -> None:
    from palate.lm.sources.zoo import load_chat

    tool: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": {}}}

    async def test() -> None:
        generator = Generator(chat_templates={str(talker): "qwen3"})
        events = [event async for event in generator.stream(str(talker), HI, SHORT, 1, user="ada", tools=[tool])]
        await generator.close()
        assert isinstance(events[-1], Done)
        prompt = Prompt(messages=tuple(HI), tools=(tool,))
        tokens = load_chat(str(talker), chat_template="qwen3").prompt_tokens(prompt)
        assert events[-1].prompt_tokens == len(tokens) > 100

    run(test())


def test_closing_ends_the_worker_and_what_is_under_way(
    generator: Generator, generators: list[Generator], run: Run, talker: Path
) -> None:
    async def test() -> None:
        events = generator.stream(str(talker), HI, LONG, 1, user="ada")
        await anext(events)
        worker = generator._worker
        assert worker is not None
        await generator.close()
        assert worker.process.returncode == 0
        *_, last = [event async for event in events]
        assert isinstance(last, Failed)
        assert last.message == "the studio is shutting down"
        (last,) = await collect(generator, talker)
        assert isinstance(last, Failed)
        assert generator.pid is None

    generators.clear()
    run(test())


def test_the_web_process_does_not_import_torch() -> None:
    code = "import sys, palate.studio.chat.generation; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_with_another_template_than_its_own(generators: list[Generator], run: Run, talker: Path) -> None:
    async def test() -> None:
        generator = Generator(chat_templates={str(talker): "zephyr"})
        generators.append(generator)
        done = (await collect(generator, talker))[-1]
        assert isinstance(done, Done)
        prompt = Prompt(messages=tuple(HI))
        lengths = [len(load_chat(str(talker), chat_template=name).prompt_tokens(prompt)) for name in ("zephyr", "")]
        assert done.prompt_tokens == lengths[0] != lengths[1]

    run(test())
