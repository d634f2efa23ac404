"""The process that holds the models: JSON lines in, JSON lines out (`wire.py`).

A model never runs in the web process, so pages are served while tokens are computed, and a crash costs the generations
under way and nothing else. Everything is computed in one thread. The generations under way take turns, one token a
turn; one that draws several responses gets a token of one of them in its turn. Loading a model, reading a prompt and
scoring responses are done in one go, and the others wait meanwhile.

Left out: keeping a conversation's keys and values between its turns, and decoding different requests in one batch.

The worker ends when its standard input does, so it never outlives the process that started it, however that one ended.

Run it: `python -m palate.studio.chat.worker --models 2`, then for example
`{"op": "generate", "id": "1", "model": "tiny", "prompt": {"messages": [{"role": "user", "content": "Hi"}]}}`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO

from pydantic import ValidationError
from torch import Tensor

from palate.errors import PalateError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources import zoo
from palate.objectives.divergence import best_of_n_kl_bound
from palate.recipe import Reward, Sampling
from palate.records import Provenance, Response
from palate.rewards.mix import Mix
from palate.rollout import stream as streaming
from palate.rollout.engine import SampledTokens
from palate.rollout.shaping import Chosen, Shaping
from palate.studio.chat import wire
from palate.studio.chat.reader_judges import NONE, Fits, ReaderJudges

GRACE_SECONDS = 3.0
"""Once the input has ended, a computation that takes longer than this is cut off."""

Stamp = tuple[tuple[int, int], ...]
Model = zoo.Loaded[LanguageModel]


class Models:
    """The models used last, at most ``limit``; a generation under way keeps its own until it ends.

    A directory that has been written anew since is loaded anew. Some models have another chat template than their own.
    """

    def __init__(self, limit: int, chat_templates: Mapping[str, str] | None = None) -> None:
        self.limit, self.chat_templates = limit, chat_templates or {}
        self._kept: OrderedDict[str, tuple[Stamp, Model]] = OrderedDict()

    def get(self, name: str) -> Model:
        """The model, loaded if need be.

        Raises:
            ModelError: there is none, or it cannot be used.
        """
        stamp = _stamp(name)
        if name in self._kept and self._kept[name][0] != stamp:
            self.forget(name)
        if name not in self._kept:
            while len(self._kept) >= self.limit:  # before loading: memory for one more may not be there
                self._kept.popitem(last=False)
            self._kept[name] = stamp, zoo.load_language_model(name, chat_template=self.chat_templates.get(name, ""))
        self._kept.move_to_end(name)
        return self._kept[name][1]

    def forget(self, name: str) -> None:
        """Give its memory back."""
        self._kept.pop(name, None)


def _stamp(name: str) -> Stamp:
    """Changes when a model's directory is written anew; empty for what is no path."""
    if not Path(name).exists():
        return ()
    stats = [path.stat() for path in zoo.weight_files(zoo.locate(name))]
    return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


class Judge:
    """The reward that was asked for last; loaded anew when another one is, or when a model of it was written anew."""

    def __init__(self) -> None:
        self._terms: tuple[Reward, ...] = ()
        self._stamps: list[Stamp] = []
        self._mix: Mix | None = None

    def get(self, terms: tuple[Reward, ...]) -> Mix:
        """The reward of these terms, loaded if need be.

        Raises:
            ModelError: a model of it is not there, or cannot be used.
            RecipeError: the terms do not fit their models.
        """
        stamps = [_stamp(name) for term in terms for name in term.models]
        if self._mix is None or (self._terms, self._stamps) != (terms, stamps):
            self._mix = None  # its memory is given back before another one is loaded
            self._mix = Mix(terms)
            self._terms, self._stamps = terms, stamps
        return self._mix


class Worker:
    """Answers requests, one token at a time.

    Args:
        out: where events are written.
        max_models: kept loaded.
        chat_templates: of models, by name, in place of their own.
    """

    def __init__(self, out: BinaryIO, *, max_models: int, chat_templates: Mapping[str, str] | None = None) -> None:
        self.out = out
        self.models, self.judge = Models(max_models, chat_templates), Judge()
        self.reader_judges = ReaderJudges(self.models.get)
        self.active: deque[tuple[str, Iterator[wire.Event]]] = deque()

    def run(self, lines: SimpleQueue[bytes | None]) -> None:
        """Until ``lines`` gives None."""
        while (line := self._next(lines)) is not None:
            if line:
                self.handle(line)
            elif self.active:
                self.turn()
        self.reader_judges.close()

    def _next(self, lines: SimpleQueue[bytes | None]) -> bytes | None:
        """The next request; empty if there is none and there are generations to go on with."""
        try:
            return lines.get(block=not self.active)
        except Empty:
            return b""

    def handle(self, line: bytes) -> None:
        """Do what the request says, or put it in the row of those that take turns."""
        try:
            request = wire.REQUEST.validate_json(line)
        except ValidationError as error:
            self.send(_failed(_id_in(line), error))
            return
        if isinstance(request, wire.Cancel):
            self._cancel(request.id)
        else:
            self.active.append((request.id, self._events(request)))

    def turn(self) -> None:
        """One step of the first in the row, which then goes to its end."""
        id, events = self.active.popleft()
        try:
            event = next(events, None)
        except Exception as error:
            if not isinstance(error, PalateError):
                traceback.print_exc()
            self.send(_failed(id, error))
            return
        if event is None:
            return
        self.active.append((id, events))
        if not isinstance(event, wire.Piece) or event.text or event.chosen:
            self.send(event)

    def send(self, event: wire.Event) -> None:
        """Write it at once."""
        self.out.write(wire.line(event))
        self.out.flush()

    def _cancel(self, id: str) -> None:
        ended = [events for other, events in self.active if other == id]
        self.active = deque((other, events) for other, events in self.active if other != id)
        if ended:
            self.send(wire.Cancelled(id=id))

    def _events(self, request: wire.Load | wire.Unload | wire.Generate) -> Iterator[wire.Event]:
        if isinstance(request, wire.Unload):
            self.models.forget(request.model)
            yield wire.Unloaded(id=request.id, model=request.model)
            return
        loaded = self.models.get(request.model)
        if isinstance(request, wire.Load):
            yield wire.Loaded(id=request.id, model=request.model, weights=loaded.weights)
            return
        reward = self.judge.get(request.rewards) if request.rewards else None
        judge = request.judge if request.principles else None
        if judge is not None:
            self.reader_judges.named(judge)  # what is wrong with it is said before anything is drawn
        finished: list[streaming.Finished] = []
        yield from _generation(loaded, request, finished)
        finished.sort(key=lambda response: response.index)
        fits = NONE
        if judge is not None:
            fits = yield from self.reader_judges.fits(judge, request, [response.text for response in finished])
        if request.is_scored:
            yield _scored(loaded, request, finished, reward, fits)


def _generation(loaded: Model, request: wire.Generate, finished: list[streaming.Finished]) -> Iterator[wire.Event]:
    """One event a token, and one for each end, which is put into ``finished`` too."""
    serving, chat = request.sampling, loaded.chat
    greedy = serving.temperature == 0
    settings = serving.model_dump(include={"max_new_tokens"} if greedy else {"max_new_tokens", "temperature"})
    events = streaming.stream(
        loaded.model,
        chat,
        request.prompt,
        Sampling(**settings, num_slots=request.num_responses),
        key=(request.seed, "sample"),  # as the stage `sample` draws: its provenance says the same
        sample_index=request.sample_index,
        num_responses=request.num_responses,
        greedy=greedy,
        shaping=Shaping(**serving.shaping) if serving.shaping else None,
        begun=request.begun,
        raw=request.raw,
    )
    for event in events:
        if isinstance(event, streaming.Piece):
            chosen = event.chosen and _told(chat, event.chosen)
            yield wire.Piece(id=request.id, index=event.index, text=event.text, chosen=chosen)
        else:
            finished.append(event)
            yield _done(loaded, request, event)


def _scored(
    loaded: Model, request: wire.Generate, finished: list[streaming.Finished], reward: Mix | None, fits: Fits
) -> wire.Scored:
    """By the reward, if there is one, and by how far they follow the reader's principles, if there are any."""
    learned = None if reward is None else _rewarded(loaded, request, finished, reward)
    scores = learned if learned is not None and not request.principles else fits.added_to(learned)
    return wire.Scored(
        id=request.id,
        scores=tuple(scores.tolist()),
        kl_bound=best_of_n_kl_bound(len(finished)),
        checkpoints={**({} if reward is None else reward.hashes), **fits.checkpoints},
        fits=tuple(tuple(each) for each in fits.log_odds.tolist()),
    )


def _rewarded(loaded: Model, request: wire.Generate, finished: list[streaming.Finished], reward: Mix) -> Tensor:
    """[n] The very tokens that were drawn are scored, wherever the reward model's conversations look like ours."""
    prompt = loaded.chat.prompt_tokens(request.prompt)
    sequences = Sequences.pack(
        [prompt] * len(finished), [response.tokens for response in finished], group_ids=[0] * len(finished)
    )
    tokens = SampledTokens(
        sequences=sequences.to(loaded.model.device),
        ended=tuple(response.finish_reason == "stop" for response in finished),
        layout=loaded.chat.fingerprint,
    )
    return reward([request.prompt] * len(finished), [response.text for response in finished], tokens)


def _told(chat: Chat, chosen: Chosen) -> wire.Chosen:
    """Tokens by their text, as it reads after a letter: at the beginning some tokenizers drop a space."""
    letter = chat.text_tokens("a")[:-1]

    def text(token: int) -> str:
        return streaming.continuation(chat, letter, [token], special=True)

    likely = tuple(wire.Token(text=text(token), logprob=logprob) for token, logprob in chosen.likely)
    return wire.Chosen(text=text(chosen.token), logprob=chosen.logprob, likely=likely)


def _done(loaded: Model, request: wire.Generate, finished: streaming.Finished) -> wire.Done:
    provenance = Provenance(
        model=loaded.name,
        checkpoint=loaded.weights,
        temperature=request.sampling.temperature,
        max_new_tokens=request.sampling.max_new_tokens,
        seed=request.seed,
        sample_index=request.sample_index + finished.index,
        logprob=finished.logprob,
        ended=finished.finish_reason == "stop",
    )
    return wire.Done(
        id=request.id,
        index=finished.index,
        response=Response(text=finished.text, provenance=provenance),
        finish_reason=finished.finish_reason,
        prompt_tokens=finished.prompt_tokens,
        response_tokens=finished.response_tokens,
    )


def _failed(id: str, error: Exception) -> wire.Failed:
    text = str(error)
    if isinstance(error, ValidationError):
        text = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
    return wire.Failed(id=id, kind=type(error).__name__, message=" ".join(text.split()))


def _id_in(line: bytes) -> str:
    """The id of a request that cannot be understood; empty if there is none."""
    with contextlib.suppress(ValueError):
        request = json.loads(line)
        if isinstance(request, dict) and isinstance(request.get("id"), str):
            return str(request["id"])
    return ""


def _read(source: BinaryIO, lines: SimpleQueue[bytes | None]) -> None:
    """In a thread: pass on what comes; at the end of the input let the worker end, then end it."""
    for line in source:
        lines.put(line)
    lines.put(None)
    time.sleep(GRACE_SECONDS)
    os._exit(0)


def main() -> None:
    """Serve standard input and output; what libraries print goes to standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m palate.studio.chat.worker", description="Holds models; JSON lines."
    )
    parser.add_argument("--models", type=int, default=2, metavar="N", help="models kept loaded (default 2)")
    parser.add_argument("--chat-template", nargs=2, action="append", default=[], metavar=("MODEL", "TEMPLATE"))
    arguments = parser.parse_args()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: SimpleQueue[bytes | None] = SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, lines), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        Worker(out, max_models=arguments.models, chat_templates=dict(arguments.chat_template)).run(lines)
    os._exit(0)  # at once: a usual exit would wait for the thread that reads


if __name__ == "__main__":
    main()
