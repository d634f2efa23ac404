"""Streams of text for the web process: starts the worker that holds the models, and shares it out.

At most ``max_streams`` generations run at once, the others wait in the order they came; one user may have at most
``max_per_user``, waiting or running, and is refused beyond that. A generation ends in the worker as soon as nobody
reads it. A worker that dies takes the generations under way with it, each of which ends with a `Failed`; the next
request starts a new one.

    generator = Generator()
    await generator.start()
    messages = [Message(role="user", content="Hi")]
    async with aclosing(generator.stream("tiny", messages, Serving(max_new_tokens=64), seed=1, user="ada")) as events:
        async for event in events:
            match event:
                case Piece(): print(event.text, end="")
                case Done(): print(event.finish_reason, event.response.provenance)
                case Failed(): print(event.message)
    await generator.close()

Neither torch nor transformers is imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Self

from pydantic import JsonValue

from palate.errors import ModelError, TooManyError
from palate.recipe import ReaderJudge, Reward
from palate.records import Message, Prompt
from palate.studio.chat import wire
from palate.studio.chat.wire import Done, Event, Failed, Loaded, Piece, Scored, Serving, Unloaded

__all__ = ["Busy", "Done", "Failed", "Generator", "Piece", "Scored", "Serving"]

CLOSE_SECONDS = 6.0
"""A worker that has not ended by then, once its input was closed, is killed."""

LINE_LIMIT = 1 << 24
"""Bytes in one event; the longest is the whole text of a response."""


Drawn = AsyncGenerator[Piece | Done | Scored | Failed]


class Busy(TooManyError):
    """This user has as many generations under way as one may have."""


class Drawing(ABC):
    """What can be asked of whoever draws responses, in this process (`Generator`) or in another (`hub.Client`)."""

    def __init__(self) -> None:
        self._ids = map(str, itertools.count(1))

    async def stream(
        self,
        model: str,
        messages: Sequence[Message],
        sampling: Serving,
        seed: int,
        sample_index: int = 0,
        *,
        user: str,
        num_responses: int = 1,
        raw: bool = False,
        tools: Sequence[Mapping[str, JsonValue]] = (),
        tag: str = "",
    ) -> AsyncGenerator[Piece | Done | Failed]:
        """The events of one generation, as they come; nothing is asked of the worker before the first step.

        Stop by closing the iterator (`contextlib.aclosing`) or by cancelling the task that reads it.

        Args:
            model: path or name.
            messages: the conversation so far; if the last turn is the assistant's, the responses are what follows it.
            sampling: temperature (0: greedy), longest response, and what shapes the distribution.
            seed: with messages and number it determines a response; `palate sample` draws the same ones.
            sample_index: number of the first response.
            user: whose it is, for the limit per user.
            num_responses: drawn side by side, as one generation; their events carry the index.
            raw: the one message is a text to be continued as it stands.
            tools: definitions of those that may be called.
            tag: what it belongs to, for whoever stops it in another process (`hub`).

        Yields:
            Pieces, and one `Done` for every response; or a `Failed`, after which nothing follows.

        Raises:
            Busy: at the first step: the user has as many under way as one may have.
            ValueError: at the first step: the messages are no prompt.
        """
        *before, last = messages
        is_begun = last.role == "assistant"
        request = wire.Generate(
            id=next(self._ids),
            model=model,
            prompt=Prompt(messages=tuple(before if is_begun else messages), tools=tuple(tools)),
            sampling=sampling,
            seed=seed,
            sample_index=sample_index,
            num_responses=num_responses,
            begun=last.content if is_begun else "",
            raw=raw,
        )
        async with aclosing(self._events(request, user, tag)) as events:
            async for event in events:
                assert not isinstance(event, Scored)
                yield event

    async def scored(
        self,
        model: str,
        messages: Sequence[Message],
        sampling: Serving,
        seed: int,
        *,
        user: str,
        num_responses: int,
        rewards: Sequence[Reward],
        principles: Sequence[str] = (),
        judge: ReaderJudge | None = None,
        tag: str = "",
    ) -> AsyncGenerator[Done | Scored | Failed]:
        """Responses and what a reward says of them, principles among it if there are any; otherwise as `stream`.

        Yields:
            One `Done` for every response as it ends, then the `Scored`; or a `Failed`, after which nothing follows.

        Raises:
            Busy: as `stream`.
            ValueError: as `stream`.
        """
        request = wire.Generate(
            id=next(self._ids),
            model=model,
            prompt=Prompt(messages=tuple(messages)),
            sampling=sampling,
            seed=seed,
            num_responses=num_responses,
            rewards=tuple(rewards),
            principles=tuple(principles),
            judge=judge,
        )
        async with aclosing(self._events(request, user, tag)) as events:
            async for event in events:
                if not isinstance(event, Piece):
                    yield event

    @abstractmethod
    def _events(self, request: wire.Generate, user: str, tag: str) -> Drawn:
        """Those of one generation, until its last."""


class Generator(Drawing):
    """Draws responses in a worker process; belongs to one event loop.

    Args:
        max_streams: generations at once; the others wait.
        max_per_user: generations of one user at once, waiting ones included.
        max_models: kept loaded by the worker.
        chat_templates: of models that do not have their own, by name.
    """

    def __init__(
        self,
        *,
        max_streams: int = 4,
        max_per_user: int = 2,
        max_models: int = 2,
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.max_per_user, self.max_models = max_per_user, max_models
        self._templates = chat_templates or {}
        self._places = asyncio.Semaphore(max_streams)
        self._users: Counter[str] = Counter()
        self._starting = asyncio.Lock()
        self._worker: _Worker | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the worker; None if none is running."""
        return self._worker.process.pid if self._worker and self._worker.alive else None

    async def start(self) -> None:
        """Start the worker; it takes some seconds until it answers, and what is asked meanwhile waits."""
        await self._running()

    async def close(self) -> None:
        """End the worker. Generations under way fail, and so do later ones."""
        self._closed = True
        async with self._starting:
            if self._worker is not None:
                await self._worker.close()

    async def _events(self, request: wire.Generate, user: str, tag: str = "") -> Drawn:
        """Those of one generation, until its last."""
        with self._counted(user):
            async with self._places:
                worker = await self._running()
                with worker.asking(request) as inbox:
                    left = request.num_responses + request.is_scored
                    while left:
                        event = await inbox.get()
                        assert isinstance(event, Piece | Done | Scored | Failed)
                        left = 0 if isinstance(event, Failed) else left - isinstance(event, Done | Scored)
                        yield event

    def draw(self, request: wire.Generate, user: str) -> Drawn:
        """A request that another process made; its events have an id of ours."""
        return self._events(request.model_copy(update={"id": next(self._ids)}), user)

    async def stop(self, tag: str) -> int:
        """Nothing: whoever reads a generation of this process stops it by closing it."""
        return 0

    async def load(self, model: str) -> str:
        """Have a model ready, so that the first piece comes at once; returns the hash of its weights.

        Raises:
            ModelError: there is none, or it cannot be used.
        """
        event = await self._ask(wire.Load(id=next(self._ids), model=model))
        assert isinstance(event, Loaded)
        return event.weights

    async def unload(self, model: str) -> None:
        """Give a model's memory back, for example before its directory is deleted."""
        event = await self._ask(wire.Unload(id=next(self._ids), model=model))
        assert isinstance(event, Unloaded)

    async def _ask(self, request: wire.Load | wire.Unload) -> Event:
        worker = await self._running()
        with worker.asking(request) as inbox:
            event = await inbox.get()
        if isinstance(event, Failed):
            raise ModelError(event.message)
        return event

    @contextlib.contextmanager
    def _counted(self, user: str) -> Iterator[None]:
        if self._users[user] >= self.max_per_user:
            raise Busy(f"{self.max_per_user} responses are being written for you already: wait for one, or stop it")
        self._users[user] += 1
        try:
            yield
        finally:
            self._users[user] -= 1
            self._users += Counter()  # forgets users at zero

    async def _running(self) -> _Worker:
        async with self._starting:
            if not self._closed and not (self._worker and self._worker.alive):
                self._worker = await _Worker.start(self.max_models, self._templates)
            assert self._worker is not None, "closed before it was started"
            return self._worker


class _Worker:
    """One worker process, and who waits for what from it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.alive = True
        self.obituary = "the process that holds the models has died: try again"
        self._inboxes: dict[str, asyncio.Queue[Event]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, max_models: int, chat_templates: Mapping[str, str]) -> Self:
        templates = (word for name, template in chat_templates.items() for word in ("--chat-template", name, template))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "palate.studio.chat.worker", "--models", str(max_models), *templates),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            start_new_session=True,  # Ctrl-C in a terminal is for the web process, which then closes this one
        )
        return cls(process)

    @contextlib.contextmanager
    def asking(self, request: wire.Load | wire.Unload | wire.Generate) -> Iterator[asyncio.Queue[Event]]:
        """Send a request; its events arrive in the queue. Leaving by an exception cancels it."""
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        if self.alive:
            self._inboxes[request.id] = inbox
            self._send(request)
        else:
            inbox.put_nowait(self._died(request.id))
        try:
            yield inbox
        except BaseException:  # GeneratorExit and CancelledError: whoever read has gone
            self._send(wire.Cancel(id=request.id))
            raise
        finally:
            self._inboxes.pop(request.id, None)

    async def close(self) -> None:
        """Close its input, upon which it ends."""
        self.obituary = "the studio is shutting down"
        self._input.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), CLOSE_SECONDS)
        if self.process.returncode is None:
            self.process.kill()
        await self._reading

    @property
    def _input(self) -> asyncio.StreamWriter:
        assert self.process.stdin is not None
        return self.process.stdin

    def _send(self, request: wire.Request) -> None:
        if self.alive:
            self._input.write(wire.line(request))

    async def _read(self) -> None:
        """Hand events to who waits for them, until there are no more; then tell those who still wait."""
        assert self.process.stdout is not None
        try:
            async for line in self.process.stdout:
                event = wire.EVENT.validate_json(line)
                if inbox := self._inboxes.get(event.id):
                    inbox.put_nowait(event)
        except ValueError:  # a line that cannot be read: what it was about would never end
            self.process.kill()
            raise
        finally:
            self.alive = False
            await self.process.wait()
            for id, inbox in self._inboxes.items():
                inbox.put_nowait(self._died(id))

    def _died(self, id: str) -> Failed:
        return Failed(id=id, kind="WorkerDied", message=self.obituary)
