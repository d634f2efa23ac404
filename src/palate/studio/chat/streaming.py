"""Answers being written: from the worker's tokens to the reader's screen and the database.

Every turn is written by a task of its own. It passes pieces on as they come, keeps what is there every second, and
ends once: when all is drawn, when its owner presses stop, or when nobody reads on. However it ends, what was written is
kept. After a crash `exchanges.reconcile` does the same with what the database holds.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from pydantic import JsonValue

from palate.errors import PalateError
from palate.feedback.chat import exchanges
from palate.feedback.chat.exchanges import Ask
from palate.feedback.store.database import Store
from palate.records import Message, Provenance
from palate.studio.chat.generation import Busy
from palate.studio.chat.wire import Done, Failed, Piece, Serving

SAVE_SECONDS = 1.0
TOO_LONG = (
    "This conversation has become too long for the model. Shorten your message, ask for shorter answers, or start a "
    "new conversation."
)


class Draws(Protocol):
    """What draws responses: `generation.Generator`."""

    def stream(
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
    ) -> AsyncGenerator[Piece | Done | Failed]:
        """The events of one generation; it ends when the iterator is closed."""
        ...


@dataclass(frozen=True, slots=True)
class Bit:
    """More text of the answer in one place of the screen."""

    place: int
    text: str


class Writing:
    """The answers of one turn; iterate over it for what is written from now on.

    Args:
        locate: from a model's path in the database to where it is.
    """

    def __init__(self, ask: Ask, user_id: str, generator: Draws, store: Store, locate: Callable[[str], str]) -> None:
        self.ask, self.user_id = ask, user_id
        self._generator, self._store, self._locate = generator, store, locate
        self._texts = [""] * len(ask.answers)
        self._ends: list[tuple[str, Provenance | None]] = [("stopped", None)] * len(ask.answers)
        self._saved_at = time.monotonic()
        self._bits: asyncio.Queue[Bit | None] = asyncio.Queue()
        self._stopped = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    def stop(self) -> None:
        """Write no more; what is there is kept."""
        self._stopped.set()

    async def ended(self) -> None:
        """Wait until everything is in the database."""
        await asyncio.wait({self._task})

    async def __aiter__(self) -> AsyncIterator[Bit]:
        """Until the end."""
        while (bit := await self._bits.get()) is not None:
            yield bit

    async def _write(self) -> None:
        drawing = asyncio.create_task(self._draw_all())
        stopping = asyncio.create_task(self._stopped.wait())
        either: set[asyncio.Future[Any]] = {drawing, stopping}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            drawing.cancel()
            stopping.cancel()
            await asyncio.wait({drawing})
        finally:
            await asyncio.to_thread(self._end)
            self._bits.put_nowait(None)
        if not drawing.cancelled():
            drawing.result()

    async def _draw_all(self) -> None:
        models = groupby(range(len(self.ask.answers)), key=lambda index: self.ask.answers[index].model)
        await asyncio.gather(*(self._draw(model, list(indices)) for model, indices in models))

    async def _draw(self, model: str, indices: list[int]) -> None:
        """The answers of one model, side by side."""
        sampling = Serving(temperature=self.ask.temperature, max_new_tokens=self.ask.max_new_tokens)
        events = self._generator.stream(
            self._locate(model),
            self.ask.messages,
            sampling,
            self.ask.seed,
            self.ask.answers[indices[0]].sample_index,
            user=self.user_id,
            num_responses=len(indices),
        )
        try:
            async with aclosing(events) as drawn:
                async for event in drawn:
                    await self._take(event, indices)
        except PalateError as error:
            self._fail(indices, str(error))

    async def _take(self, event: Piece | Done | Failed, indices: list[int]) -> None:
        match event:
            case Piece():
                index = indices[event.index]
                self._texts[index] += event.text
                self._bits.put_nowait(Bit(self.ask.shown.index(index), event.text))
                await self._save_now_and_then()
            case Done():
                index = indices[event.index]
                self._texts[index] = event.response.text
                # the path the database knows: where the workspace lies is nobody's business
                drawn = event.response.provenance or Provenance(model="")
                self._ends[index] = "done", drawn.model_copy(update={"model": self.ask.answers[index].model})
            case Failed():
                self._fail(indices, TOO_LONG if event.kind == "DataError" else event.message)

    def _fail(self, indices: list[int], message: str) -> None:
        """What has no text yet says why; what has is kept as far as it went."""
        for index in indices:
            if self._ends[index][0] != "done" and not self._texts[index]:
                self._texts[index], self._ends[index] = message, ("failed", None)

    async def _save_now_and_then(self) -> None:
        if time.monotonic() > self._saved_at + SAVE_SECONDS:
            self._saved_at = time.monotonic()
            await asyncio.to_thread(self._save)

    def _save(self) -> None:
        with self._store.write() as session:
            for answer, text in zip(self.ask.answers, self._texts, strict=True):
                exchanges.save(session, answer.message_id, text)

    def _end(self) -> None:
        with self._store.write() as session:
            for answer, text, (state, provenance) in zip(self.ask.answers, self._texts, self._ends, strict=True):
                exchanges.end(session, answer.message_id, text, state, provenance)


class Desk:
    """Everything that is being written in this process, and the limit for each person.

    Args:
        per_person: turns at once.
    """

    def __init__(self, generator: Draws, store: Store, locate: Callable[[str], str], *, per_person: int) -> None:
        self.generator, self.per_person = generator, per_person
        self._store, self._locate = store, locate
        self._writings: dict[str, Writing] = {}
        self._people: Counter[str] = Counter()

    @asynccontextmanager
    async def writing(self, user_id: str, prepare: Callable[[], Ask]) -> AsyncIterator[Writing]:
        """Write the turn that ``prepare`` (run in a thread) makes room for, as long as the block lasts.

        Raises:
            Busy: this person has as many under way as one may have.
        """
        if self._people[user_id] >= self.per_person:
            raise Busy(f"{self.per_person} answers are being written for you already: wait for one, or stop it")
        self._people[user_id] += 1
        try:
            ask = await asyncio.to_thread(prepare)
            writing = Writing(ask, user_id, self.generator, self._store, self._locate)
            self._writings[ask.conversation_id] = writing
            try:
                yield writing
            finally:
                writing.stop()
                self._writings.pop(ask.conversation_id, None)
        finally:
            self._people[user_id] -= 1
            self._people += Counter()  # forgets people at zero

    async def stop(self, conversation_id: str) -> None:
        """Stop what is being written in a conversation, and wait until it is kept."""
        if writing := self._writings.get(conversation_id):
            writing.stop()
            await writing.ended()

    async def close(self) -> None:
        """Stop everything."""
        for conversation_id in list(self._writings):
            await self.stop(conversation_id)
