"""One process that holds the models for several web processes; each generation is a connection to it.

Which answers are being written, how many for whom, and who waits for a place is known here alone, whichever web process
was asked. The hub has a `Generator` of its own, and with it the worker. It listens on a socket in a private directory,
so nobody but the studio's own processes can ask it for anything.

    Draw        a generation; its events follow, as the worker says them, then the connection closes
    Stop        end the generations with this tag; answered by how many there were
    Tags        which are under way

A client that closes its connection has gone, and its generation ends. Nothing here is kept: after a crash of the hub
the generations under way have failed, and the next ones wait until it has been started again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
from collections import defaultdict
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from palate.records import Record
from palate.studio.chat import wire
from palate.studio.chat.generation import LINE_LIMIT, Busy, Drawing, Drawn, Generator
from palate.studio.chat.placing import generator_of
from palate.studio.chat.wire import Done, Failed, Piece, Scored
from palate.studio.web.workspace import Workspace

START_SECONDS = 20.0
"""How long a client waits for a hub that is being started."""


class Draw(Record):
    """A generation for a user; whoever knows the tag can stop it."""

    op: Literal["draw"] = "draw"
    user: str
    tag: str
    request: wire.Generate


class Stop(Record):
    """End what is drawn for a tag."""

    op: Literal["stop"] = "stop"
    tag: str


class Tags(Record):
    """Ask what is under way."""

    op: Literal["tags"] = "tags"


class Refused(Record):
    """This user has as many under way as one may have."""

    type: Literal["refused"] = "refused"
    message: str


class Stopped(Record):
    """It was stopped; no event follows."""

    type: Literal["stopped"] = "stopped"


class Told(Record):
    """The tags that were stopped, or that are under way."""

    type: Literal["told"] = "told"
    tags: tuple[str, ...]


Asked: TypeAlias = Draw | Stop | Tags
Answer: TypeAlias = Piece | Done | Scored | Failed | Refused | Stopped | Told

_ASKED: TypeAdapter[Asked] = TypeAdapter(Annotated[Asked, Field(discriminator="op")])
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="type")])


class Hub:
    """Serves one `Generator` to many clients."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._drawing: dict[str, set[asyncio.Task[None]]] = defaultdict(set)

    async def serve(self, path: Path) -> asyncio.Server:
        """Listen; whatever an earlier hub has left there is replaced."""
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(self._meet, path, limit=LINE_LIMIT)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, who asks one thing."""
        try:
            match _ASKED.validate_json(await reader.readline()):
                case Draw() as draw:
                    await self._draw(draw, reader, writer)
                case Stop(tag=tag):
                    tasks = self._drawing.get(tag, set())
                    for task in tasks:
                        task.cancel()
                    _say(writer, Told(tags=(tag,) * len(tasks)))
                case Tags():
                    _say(writer, Told(tags=tuple(sorted(self._drawing))))
            await writer.drain()
        except (ConnectionError, ValueError):  # it has gone, or it is none of ours
            pass
        finally:
            writer.close()

    async def _draw(self, draw: Draw, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        drawing = asyncio.create_task(self._events(draw, writer))
        leaving = asyncio.create_task(reader.read())  # ends when the client has gone: it says nothing more
        self._drawing[draw.tag].add(drawing)
        try:
            await asyncio.wait({drawing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            is_stopped = drawing.cancelled()
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing
            if is_stopped:
                _say(writer, Stopped())
        finally:
            leaving.cancel()
            self._drawing[draw.tag].discard(drawing)
            if not self._drawing[draw.tag]:
                del self._drawing[draw.tag]

    async def _events(self, draw: Draw, writer: asyncio.StreamWriter) -> None:
        try:
            async with aclosing(self.generator.draw(draw.request, draw.user)) as events:
                async for event in events:
                    _say(writer, event)
                    await writer.drain()
        except Busy as busy:
            _say(writer, Refused(message=str(busy)))


class Client(Drawing):
    """Draws by asking the hub; a web process has one.

    Args:
        path: of the hub's socket.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    async def start(self) -> None:
        """Nothing; the hub is somebody else's."""

    async def close(self) -> None:
        """Nothing; generations end with the connections of whoever reads them."""

    async def stop(self, tag: str) -> int:
        """End what is drawn for a tag, whichever process reads it; returns how many generations that were."""
        return len(await self._told(Stop(tag=tag)))

    async def tags(self) -> set[str]:
        """What is under way."""
        return set(await self._told(Tags()))

    async def _told(self, asked: Stop | Tags) -> tuple[str, ...]:
        with contextlib.suppress(OSError, ValueError):  # it has died, and what was under way with it
            reader, writer = await self._connected()
            with contextlib.closing(writer):
                writer.write(wire.line(asked))
                answer = _ANSWER.validate_json(await reader.readline())
            assert isinstance(answer, Told)
            return answer.tags
        return ()

    async def _events(self, request: wire.Generate, user: str, tag: str) -> Drawn:
        died = Failed(id=request.id, kind="WorkerDied", message="the process that holds the models has died: try again")
        try:
            reader, writer = await self._connected()
        except OSError:
            yield died
            return
        try:
            writer.write(wire.line(Draw(user=user, tag=tag, request=request)))
            left = request.num_responses + request.is_scored
            while left:
                line = await reader.readline()
                event = _ANSWER.validate_json(line) if line.endswith(b"\n") else died
                match event:
                    case Refused(message=message):
                        raise Busy(message)
                    case Piece() | Done() | Scored() | Failed():
                        left = 0 if isinstance(event, Failed) else left - isinstance(event, Done | Scored)
                        yield event
                    case _:
                        return
        except ConnectionError:
            yield died
        finally:
            writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, once the hub is there.

        Raises:
            OSError: it does not come.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + START_SECONDS
        while True:
            try:
                return await asyncio.open_unix_connection(self.path, limit=LINE_LIMIT)
            except OSError:
                if loop.time() > give_up:
                    raise
                await asyncio.sleep(0.1)


def _say(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(wire.line(answer))


async def _serve(workspace: Workspace, path: Path) -> None:
    generator = generator_of(workspace)
    server = await Hub(generator).serve(path)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=lambda: (sys.stdin.buffer.read(), loop.call_soon_threadsafe(ended.set)), daemon=True
    ).start()
    await ended.wait()
    server.close()
    await generator.close()


def main() -> None:
    """Serve until standard input ends, so that it never outlives whoever started it."""
    parser = argparse.ArgumentParser(prog="python -m palate.studio.chat.hub", description="Holds the models' process.")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(_serve(Workspace(arguments.workspace), arguments.socket))
    sys.stdout.flush()
    os._exit(0)  # at once: a usual exit would wait for the thread that reads


if __name__ == "__main__":
    main()
