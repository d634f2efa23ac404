"""One process that holds the models for several: the same answers, one limit, and a stop from anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from palate.recipe import Reward
from palate.records import Message
from palate.studio.chat import wire
from palate.studio.chat.generation import Busy, Done, Failed, Generator, Piece, Serving
from palate.studio.chat.hub import Client, Hub
from palate.studio.chat.wire import Scored

HI = [Message(role="user", content="Hi")]
SHORT, LONG = Serving(max_new_tokens=8), Serving(max_new_tokens=1900)

Run = Callable[[Coroutine[Any, Any, None]], None]
Events = AsyncGenerator[Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One event loop for the module, for a generator belongs to one; a test that hangs fails."""
    with asyncio.Runner() as runner:
        yield lambda test: runner.run(asyncio.wait_for(test, 200))


@pytest.fixture(scope="module")
def generator(run: Run) -> Iterator[Generator]:
    """With a real worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        generator = Generator(max_streams=2, max_per_user=2)
        run(generator.start())
        yield generator
        run(generator.close())


@asynccontextmanager
async def serving(generator: Generator, path: Path, count: int = 2) -> AsyncIterator[list[Client]]:
    """A hub, and that many web processes' clients of it."""
    server = await Hub(generator).serve(path)
    try:
        yield [Client(path) for _ in range(count)]
    finally:
        server.close()


async def all_of(events: Events) -> list[Any]:
    """Without the ids, which nobody but the worker's process needs."""
    async with aclosing(events) as drawn:
        return [event.model_copy(update={"id": ""}) async for event in drawn]


async def until(what: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    while not await what():
        await asyncio.sleep(0.01)


def test_what_is_drawn_is_what_the_process_itself_would_draw(run: Run, generator: Generator, tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(generator, tmp_path / "hub") as (one, other):
            for n in (1, 2):
                ask: dict[str, Any] = {"seed": 3, "user": "ada", "num_responses": n}
                mine = await all_of(generator.stream("tiny", HI, SHORT, **ask))
                theirs = await all_of(one.stream("tiny", HI, SHORT, **ask))
                assert [e for e in mine if isinstance(e, Done)] == [e for e in theirs if isinstance(e, Done)]
                assert "".join(e.text for e in theirs if isinstance(e, Piece) and e.index == 0) == "".join(
                    e.text for e in mine if isinstance(e, Piece) and e.index == 0
                )
                assert len([e for e in theirs if isinstance(e, Done)]) == n
            rewards: Sequence[Reward] = (Reward(function="palate.simulated.tastes:short"),)
            ask = {"seed": 4, "user": "ada", "num_responses": 3, "rewards": rewards}
            theirs = await all_of(other.scored("tiny", HI, SHORT, **ask))
            assert theirs == await all_of(generator.scored("tiny", HI, SHORT, **ask))
            assert isinstance(theirs[-1], Scored)

    run(test())


def test_a_failure_is_told(run: Run, generator: Generator, tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(generator, tmp_path / "hub") as (one, _):
            [event] = await all_of(one.stream("no-such-model", HI, SHORT, seed=1, user="ada"))
            assert isinstance(event, Failed)
            assert event.kind == "ModelError"

    run(test())


def test_a_persons_limit_is_one_over_all_processes(
    run: Run, generator: Generator, talker: Path, tmp_path: Path
) -> None:
    async def test() -> None:
        async with serving(generator, tmp_path / "hub") as (one, other):
            streams = [client.stream(str(talker), HI, LONG, seed=1, user="ada", tag="t") for client in (one, other)]
            for stream in streams:
                await anext(stream)
            with pytest.raises(Busy, match="2 responses are being written for you already"):
                await anext(other.stream("tiny", HI, SHORT, seed=1, user="ada"))
            for stream in streams:
                await stream.aclose()

            async def none() -> bool:
                return not await one.tags()

            await until(none)
            assert await all_of(other.stream("tiny", HI, SHORT, seed=1, user="ada"))

    run(test())


def test_an_answer_is_stopped_from_another_process(
    run: Run, generator: Generator, talker: Path, tmp_path: Path
) -> None:
    """It ends without `Done`, whether it is being drawn or waits for a place; others go on."""

    async def test() -> None:
        async with serving(generator, tmp_path / "hub", 3) as (one, other, third):
            drawn = one.stream(str(talker), HI, LONG, seed=1, user="ada", tag="c1")
            goes_on = one.stream(str(talker), HI, LONG, seed=2, user="bob", tag="c2")
            await anext(drawn)
            await anext(goes_on)
            waits = asyncio.create_task(all_of(third.stream(str(talker), HI, LONG, seed=3, user="cyd", tag="c3")))

            async def three() -> bool:
                return await other.tags() == {"c1", "c2", "c3"}

            await until(three)
            assert await other.stop("c3") == 1
            assert await waits == []
            assert await other.stop("c1") == 1
            assert not any(isinstance(event, Done | Failed) for event in await all_of(drawn))
            assert await other.stop("c1") == 0
            assert await other.tags() == {"c2"}
            assert isinstance(await anext(goes_on), Piece)
            await goes_on.aclose()

    run(test())


def test_a_reader_that_goes_ends_the_generation(run: Run, generator: Generator, talker: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(generator, tmp_path / "hub") as (one, other):
            for _ in range(3):  # more than there are places: each was given back
                drawn = one.stream(str(talker), HI, LONG, seed=1, user="ada", tag="c1")
                await anext(drawn)
                await drawn.aclose()

                async def none() -> bool:
                    return not await other.tags()

                await until(none)

    run(test())


def test_who_leaves_while_waiting_for_a_place_waits_no_more(
    run: Run, generator: Generator, talker: Path, tmp_path: Path
) -> None:
    """Nothing is written to a client that waits, so a broken connection alone would never be noticed."""

    async def test() -> None:
        async with serving(generator, tmp_path / "hub") as (one, other):
            drawn = [one.stream(str(talker), HI, LONG, seed=1, user=user, tag=user) for user in ("ada", "bob")]
            for stream in drawn:
                await anext(stream)
            waits = asyncio.create_task(all_of(other.stream("tiny", HI, SHORT, seed=1, user="cyd", tag="cyd")))

            async def tags(expected: set[str]) -> bool:
                return await one.tags() == expected

            await until(lambda: tags({"ada", "bob", "cyd"}))
            waits.cancel()
            await until(lambda: tags({"ada", "bob"}))
            for stream in drawn:
                await stream.aclose()

    run(test())


def test_who_talks_nonsense_is_hung_up_on(run: Run, generator: Generator, tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(generator, tmp_path / "hub") as (one, _):
            for line in (b"nonsense\n", b'{"op": "draw"}\n', b""):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "hub")
                writer.write(line)
                if not line:
                    writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            assert await one.tags() == set()

    run(test())


def test_a_hub_that_dies_fails_what_was_under_way(
    run: Run, generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is asked while there is none waits for the next one, but not for ever."""

    async def test() -> None:
        path = tmp_path / "hub"
        client = Client(path)
        line = wire.line(Piece(id="1", index=0, text="Hel"))

        async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if b'"draw"' in await reader.readline():
                writer.write(line + line[:9])
            writer.close()

        server = await asyncio.start_unix_server(dies, path)
        piece, end = await all_of(client.stream("tiny", HI, SHORT, seed=1, user="ada"))
        assert (piece.text, end.kind) == ("Hel", "WorkerDied")
        assert await client.stop("x") == 0
        server.close()
        path.unlink()
        asked = asyncio.create_task(all_of(client.stream("tiny", HI, SHORT, seed=1, user="ada")))
        await asyncio.sleep(0.2)
        async with serving(generator, path):
            assert any(isinstance(event, Done) for event in await asked)
        path.unlink()
        monkeypatch.setattr("palate.studio.chat.hub.START_SECONDS", 0.2)
        [event] = await all_of(client.stream("tiny", HI, SHORT, seed=1, user="ada"))
        assert event.kind == "WorkerDied"

    run(test())
