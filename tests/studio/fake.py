"""A generator of given texts, so that tests of the chat need no model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pydantic import JsonValue

from palate.recipe import ReaderJudge, Reward
from palate.records import Message, Provenance, Response
from palate.studio.chat.generation import Busy
from palate.studio.chat.wire import Done, Failed, Piece, Scored, Serving

PIECE = 3


class Fake:
    """Says the given texts in turn, in pieces of three characters.

    Attributes:
        texts: what is said next; an error is said as a failure, None goes on without end.
        asked: what the model was told each time.
        open: generations under way.
        scores: of the responses to each message that are drawn to be chosen from.
        rewards, principles, judge: by which that was asked for last.
        fits: how far they follow the principles; one for each principle is taken each time.
        tags: what each generation belonged to.
        elsewhere: tags that other processes draw for; stopped ones are gone.
    """

    def __init__(self, *texts: str | Failed | Busy | None) -> None:
        self.texts = list(texts)
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []
        self.sampling: list[Serving] = []
        self.open = 0
        self.tools: list[Mapping[str, JsonValue]] = []
        self.scores: list[tuple[float, ...]] = []
        self.rewards: Sequence[Reward] = ()
        self.principles: tuple[str, ...] = ()
        self.judge: ReaderJudge | None = None
        self.fits: list[tuple[float, ...]] = []
        self.tags: list[str] = []
        self.elsewhere: set[str] = set()

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
        self.asked.append((model, [(message.role, message.content) for message in messages]))
        self.sampling.append(sampling)
        self.tags.append(tag)
        self.tools = list(tools)
        texts = [self.texts.pop(0) for _ in range(num_responses)]
        self.open += 1
        try:
            for start in range(0, 10**9 if None in texts else 1000, PIECE):
                for index, text in enumerate(texts):
                    if isinstance(text, Busy):
                        raise text
                    if isinstance(text, Failed):
                        yield text
                        return
                    piece = "ab " if text is None else text[start : start + PIECE]
                    if piece:
                        yield Piece(id="1", index=index, text=piece)
                await asyncio.sleep(0)
            for index, text in enumerate(texts):
                yield done(index, str(text), model=f"/somewhere/{model}", seed=seed, sample_index=sample_index + index)
        finally:
            self.open -= 1

    async def stop(self, tag: str) -> int:
        found = tag in self.elsewhere
        self.elsewhere.discard(tag)
        return int(found)

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
        self.rewards, self.principles, self.judge = rewards, tuple(principles), judge
        async with aclosing(
            self.stream(model, messages, sampling, seed, user=user, num_responses=num_responses, tag=tag)
        ) as events:
            async for event in events:
                if not isinstance(event, Piece):
                    yield event
                if isinstance(event, Failed):
                    return
        checkpoints = {name: "c0ffee" for term in rewards for name in term.models}
        checkpoints |= {judge.model: "deed"} if judge and judge.endpoint is None else {}
        yield Scored(
            id="1",
            scores=self.scores.pop(0),
            kl_bound=math.log(num_responses) - (num_responses - 1) / num_responses,
            checkpoints=checkpoints,
            fits=tuple(self.fits.pop(0) for _ in principles),
        )


def done(index: int, text: str, **provenance: Any) -> Done:
    response = Response(text=text, provenance=Provenance(checkpoint="c0ffee", **provenance))
    return Done(
        id="1", index=index, response=response, finish_reason="stop", prompt_tokens=7, response_tokens=len(text)
    )


def failed(kind: str = "ModelError", message: str = "no such model") -> Failed:
    return Failed(id="1", kind=kind, message=message)


def events_of(text: str) -> list[tuple[str, Any]]:
    """The events of a stream that has ended."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            data = None if lines["data"] == "[DONE]" else json.loads(lines["data"])
            found.append((lines.get("event", "message"), data))
    return found
