"""Answers being written: from the worker's tokens to the reader's screen and the database.

Every turn is written by a task of its own. It passes pieces on as they come, keeps what is there every second, and
ends once: when all is drawn, when its owner presses stop, or when nobody reads on. However it ends, what was written is
kept. After a crash `exchanges.reconcile` does the same with what the database holds.

Where answers are the best of several (`best.py`), there is nothing to pass on until all are drawn and scored but how
many of them are, and the answer comes whole. That holds for an answer alone: of two that are compared each is the only
one drawn, as is one at temperature 0, where all would be the same.
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
from palate.recipe import ReaderJudge, Reward
from palate.records import Message, Provenance, Response
from palate.studio.chat import best
from palate.studio.chat.generation import Busy
from palate.studio.chat.wire import Done, Failed, Piece, Scored, Serving
from palate.studio.web.workspace import BestOf

SAVE_SECONDS = 1.0
KEEP_SECONDS = 5.0
"""How long another process may take to keep what it has written once it is told to stop."""

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
        tag: str = "",
    ) -> AsyncGenerator[Piece | Done | Failed]:
        """The events of one generation; it ends when the iterator is closed."""
        ...

    def scored(
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
        """Several responses, and what a reward and their reader's principles say of them."""
        ...

    async def stop(self, tag: str) -> int:
        """End the generations with this tag that other processes read; returns how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class Bit:
    """More text of the answer in one place of the screen."""

    place: int
    text: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """How many of the responses that an answer is chosen from are there."""

    count: int
    n: int


class Writing:
    """The answers of one turn; iterate over it for what is written from now on.

    Args:
        locate: from a model's path in the database to where it is.
        best_of: how an answer is chosen; None if it is the only one that is drawn.
    """

    def __init__(
        self,
        ask: Ask,
        user_id: str,
        generator: Draws,
        store: Store,
        locate: Callable[[str], str],
        best_of: BestOf | None = None,
    ) -> None:
        self.ask, self.user_id = ask, user_id
        self._generator, self._store, self._locate = generator, store, locate
        alone = len(ask.answers) == 1 and ask.temperature > 0
        self._best_of = best_of if alone and best_of is not None and best.chooses(best_of, ask.principles) else None
        self._sampling = Serving(temperature=ask.temperature, max_new_tokens=ask.max_new_tokens)
        self._texts = [""] * len(ask.answers)
        self._ends: list[tuple[str, Provenance | None]] = [("stopped", None)] * len(ask.answers)
        self._saved_at = time.monotonic()
        self._bits: asyncio.Queue[Bit | Drawn | None] = asyncio.Queue()
        self._stopped = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    def stop(self) -> None:
        """Write no more; what is there is kept."""
        self._stopped.set()

    async def ended(self) -> None:
        """Wait until everything is in the database."""
        await asyncio.wait({self._task})

    async def __aiter__(self) -> AsyncIterator[Bit | Drawn]:
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
        if self._best_of is not None:
            await self._draw_best(self._best_of)
            return
        models = groupby(range(len(self.ask.answers)), key=lambda index: self.ask.answers[index].model)
        await asyncio.gather(*(self._draw(model, list(indices)) for model, indices in models))

    async def _draw(self, model: str, indices: list[int]) -> None:
        """The answers of one model, side by side."""
        events = self._generator.stream(
            self._locate(model),
            self.ask.messages,
            self._sampling,
            self.ask.seed,
            self.ask.answers[indices[0]].sample_index,
            user=self.user_id,
            num_responses=len(indices),
            tag=self.ask.conversation_id,
        )
        try:
            async with aclosing(events) as drawn:
                async for event in drawn:
                    await self._take(event, indices)
        except PalateError as error:
            self._fail(indices, str(error))

    async def _draw_best(self, best_of: BestOf) -> None:
        """The one answer, out of several."""
        places = {name: self._locate(name) for term in best_of.rewards for name in term.models}
        judge = best.judge_of(best_of, self.ask.principles)
        if judge is not None and judge.endpoint is None:
            places[judge.model] = self._locate(judge.model)
            judge = judge.model_copy(update={"model": places[judge.model]})
        said = self.ask.principles if judge else ()
        events = self._generator.scored(
            self._locate(self.ask.answers[0].model),
            self.ask.messages,
            self._sampling,
            self.ask.seed,
            user=self.user_id,
            num_responses=best_of.n,
            rewards=best.located(best_of.rewards, places),
            principles=said,
            judge=judge,
            tag=self.ask.conversation_id,
        )
        drawn: dict[int, Response] = {}
        self._bits.put_nowait(Drawn(0, best_of.n))
        try:
            async with aclosing(events) as coming:
                async for event in coming:
                    match event:
                        case Done():
                            drawn[event.index] = event.response
                            self._bits.put_nowait(Drawn(len(drawn), best_of.n))
                        case Scored():
                            responses = [drawn[index] for index in range(best_of.n)]
                            names = {place: name for name, place in places.items()}
                            self._keep(0, best.select(best_of, self.ask.seed, responses, event, names, said))
                            self._bits.put_nowait(Bit(0, self._texts[0]))
                        case Failed():
                            self._fail([0], TOO_LONG if event.kind == "DataError" else event.message)
        except PalateError as error:
            self._fail([0], str(error))

    def _keep(self, index: int, response: Response) -> None:
        """An answer that is finished."""
        self._texts[index] = response.text
        # the path the database knows: where the workspace lies is nobody's business
        drawn = response.provenance or Provenance(model="")
        self._ends[index] = "done", drawn.model_copy(update={"model": self.ask.answers[index].model})

    async def _take(self, event: Piece | Done | Failed, indices: list[int]) -> None:
        match event:
            case Piece():
                index = indices[event.index]
                self._texts[index] += event.text
                self._bits.put_nowait(Bit(self.ask.shown.index(index), event.text))
                await self._save_now_and_then()
            case Done():
                self._keep(indices[event.index], event.response)
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
        best_of: how answers are chosen, if they are.
    """

    def __init__(
        self,
        generator: Draws,
        store: Store,
        locate: Callable[[str], str],
        *,
        per_person: int,
        best_of: BestOf | None = None,
    ) -> None:
        self.generator, self.per_person = generator, per_person
        self._store, self._locate, self._best_of = store, locate, best_of
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
            writing = Writing(ask, user_id, self.generator, self._store, self._locate, self._best_of)
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
        """Stop what is being written in a conversation, here or in another process, and wait until it is kept."""
        if writing := self._writings.get(conversation_id):
            writing.stop()
            await writing.ended()
        elif await self.generator.stop(conversation_id):
            give_up = time.monotonic() + KEEP_SECONDS
            while time.monotonic() < give_up and await asyncio.to_thread(self._is_written, conversation_id):
                await asyncio.sleep(0.05)

    def _is_written(self, conversation_id: str) -> bool:
        with self._store.read() as session:
            return conversation_id in exchanges.being_written(session)

    async def close(self) -> None:
        """Stop everything."""
        for conversation_id in list(self._writings):
            await self.stop(conversation_id)
