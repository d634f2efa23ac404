"""Sampling by vLLM servers, which have copies of the weights.

    load_weights    a directory for the version, then to every server: stop, read, forget the old, go on
    generate        token ids out, token ids and log-probabilities back; a request for each response, with its own seed

A server is never asked before it is known to have this version, and every response says which one drew it. What it says
is what it was told; so after new weights each server draws the same few tokens from the same prompt as before, and the
network here says how likely they are: kept keys and values, a path read twice, a reload that left something out, all of
them show there. A server that has gone and come back is given the weights again before it is asked anything.

Numbers of another engine are not the trainer's: `Rollout.weights` says that a copy drew them, and the stages measure
the difference and correct for it (`stages/reinforcement/mismatch.py`). Seeds are functions of the same key as the local
engine's random numbers, so runs repeat as far as vLLM does; the tokens are others.

Left out: servers that take over another's prompts, other ways for weights than a disk, and sampling from a value model.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch

from palate.errors import EndpointError, TrainingError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.randomness import derive_seed
from palate.recipe import Engine, Sampling
from palate.records import Prompt
from palate.rollout.drawing import Drawn
from palate.rollout.engine import Rollout
from palate.rollout.local import check_lengths, numbered, rollout_of
from palate.rollout.servers.vllm_server import AT_FIRST, Draw, NotNowError, Reply, ServerLostError, VLLMServer, token_of
from palate.rollout.weights import Weights, WeightsFolder
from palate.run.world import world

MOST_GAP = {torch.float32: 0.005, torch.bfloat16: 0.08}
"""Nats a token, mean, by which a server may differ from the network here. Measured on SmolLM2 at temperature 0.7: 7e-6
in fp32, 0.042 in bf16, in which vLLM rounds between layers too; with other weights 0.3."""
TOLD = "It was a bright morning in the harbour, and nobody on the quay could say where the boats had gone. "
"""What every server is asked to go on with after new weights."""
PROBED, PROBE_LENGTH = 16, 240
"""Tokens drawn then, and of the prompt: longer than a block of vLLM's cache, which would show there."""
LONGEST_WAIT = 10.0
"""Seconds between two tries."""

_given: set[str] = set()
"""Versions that this process has given to servers: any other one is somebody else's."""


@dataclass(slots=True)
class Copy:
    """A server, and what is known of it.

    Attributes:
        held: the version that it is known to have; empty: none.
        lives: how often it was found gone, or with other weights.
        probe: what it drew last after new weights, and what the network here said of that.
        fresh: a probe that nobody has looked at yet.
    """

    server: VLLMServer
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: str = ""
    lives: int = 0
    probe: tuple[Reply, torch.Tensor] | None = None
    fresh: Reply | None = None


class VLLMEngine:
    """Draws responses from copies of a `LanguageModel` at vLLM servers; of several processes the first one asks.

    Args:
        settings: addresses, token and patience.
        model: one of those that it will sample from.
        chat: how conversations with it are laid out.

    Raises:
        EndpointError: the variable that is to hold the token is not set.
    """

    def __init__(self, settings: Engine, model: LanguageModel, chat: Chat) -> None:
        self.settings, self.model, self.chat = settings, model, chat
        token = token_of(settings.key_variable)
        self.copies = [
            Copy(VLLMServer(address, token=token, timeout_s=settings.timeout_s)) for address in settings.servers
        ]
        self._folder = WeightsFolder(settings.weights)
        self._weights: Weights | None = None
        self._known: tuple[Reply, torch.Tensor] | None = None
        self._retries, self._lock = 0, threading.Lock()

    @torch.no_grad()
    def load_weights(self, model: LanguageModel) -> None:
        """As in `RolloutEngine`; every server has them when this returns.

        Raises:
            EndpointError: a server is not there, or refuses.
            TrainingError: what a server draws then does not come from these weights.
            DiskFullError, RunError: they cannot be written.
        """
        self.model = model

        def give() -> list[Reply | None]:
            self._weights = self._folder.put(whole, self.chat)
            _given.add(self._weights.version)
            with ThreadPoolExecutor(len(self.copies)) as pool:
                for given in [pool.submit(self._give, copy, new=True) for copy in self.copies]:
                    given.result()
            return self._taken()

        with model.whole() as whole:
            fresh = world().once(give, "the servers to take the weights")
        self._look_at(fresh)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        num_responses: int,
        key: tuple[int | str, ...],
        show: Callable[[int, int], None] | None = None,
    ) -> Rollout:
        """As in `RolloutEngine`; a prompt's responses come from one server. The model may change meanwhile.

        Raises:
            DataError: a prompt longer than the model's context leaves room for.
            EndpointError: a server is not there, refuses, or was given other weights by somebody else.
            TrainingError: a server came back, and what it draws does not come from the weights it was given.
        """
        prompt_tokens = [self.chat.prompt_tokens(prompt) for prompt in prompts]
        check_lengths(self.model, prompts, prompt_tokens, sampling)
        asked = list(numbered(prompts, num_responses))

        def wanted(index: int, number: int) -> Draw:
            return Draw(
                prompt=prompt_tokens[index],
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                stop_id=self.chat.stop_id,
                seed=derive_seed(*key, prompts[index].id, number),
            )

        def draw() -> tuple[list[Drawn], list[Reply | None], int, str]:
            assert self._weights is not None, "asked before it was given weights"
            self._retries = 0
            replies = self._drawn([(index, wanted(index, number)) for index, number in asked], sampling, show)
            drawn = [self._response(index, reply) for (index, _), reply in zip(asked, replies, strict=True)]
            return drawn, self._taken(), self._retries, self._weights.version

        drawn, fresh, retries, version = world().once(draw, "the responses")
        self._look_again(fresh)
        rollout = rollout_of(self.model, self.chat, prompts, prompt_tokens, drawn, sampling)
        return replace(rollout, weights=version, retries=retries)

    def _drawn(
        self, asked: list[tuple[int, Draw]], sampling: Sampling, show: Callable[[int, int], None] | None
    ) -> list[Reply]:
        """In order; as many are under way at each server as it has slots."""
        parts = defaultdict(list)
        for place, (index, wanted) in enumerate(asked):
            parts[index % len(self.copies)].append((place, wanted))
        with ExitStack() as pools:
            waiting: dict[Future[Reply], int] = {}
            for number, part in parts.items():
                copy = self.copies[number]
                self._check_version(copy)
                pool = pools.enter_context(ThreadPoolExecutor(min(sampling.num_slots, len(part))))
                waiting |= {pool.submit(self._asked, copy, wanted): place for place, wanted in part}
            try:
                replies = {}
                for done in as_completed(waiting):
                    replies[waiting[done]] = done.result()
                    if show is not None:
                        show(len(replies), len(waiting))
            finally:
                for each in waiting:
                    each.cancel()
        return [replies[place] for place in range(len(asked))]

    def _asked(self, copy: Copy, wanted: Draw) -> Reply:
        """One response, however often it has to be asked for."""
        assert self._weights is not None
        told = ""
        for number in range(self.settings.retries + 1):
            if number:
                with self._lock:
                    self._retries += 1
                time.sleep(min(0.25 * 2**number, LONGEST_WAIT))
            with copy.lock:
                self._give(copy)
                life = copy.lives
            try:
                reply = copy.server.draw(wanted)
            except ServerLostError as error:
                told = str(error)
                self._lost(copy, life)
            except NotNowError as error:
                told = str(error)
            else:
                if {*reply.versions} == {self._weights.version}:
                    return reply
                told = f"{copy.server.address}: drew with the weights {', '.join(reply.versions)}"
                self._lost(copy, life)
        self._give_up(told)

    def _give(self, copy: Copy, *, new: bool = False) -> None:
        """See to it that a server has this version; whoever asks several things at once holds its lock.

        Args:
            new: whatever it has may go.
        """
        assert self._weights is not None
        told = ""
        for number in range(self.settings.retries + 1):
            if copy.held == self._weights.version:
                return
            if number:
                with self._lock:
                    self._retries += 1
                time.sleep(min(0.25 * 2**number, LONGEST_WAIT))
            try:
                copy.server.wait(self.settings.patience_s)
                if not new:
                    self._refuse_strangers(copy, copy.server.version())
                copy.server.load(self._weights.directory, self._weights.version)
                copy.fresh = copy.server.draw(self._probe())
                copy.held = self._weights.version
            except (ServerLostError, NotNowError) as error:
                told = str(error)
        if copy.held != self._weights.version:
            self._give_up(told)

    def _check_version(self, copy: Copy) -> None:
        """It may have died and come back, or have been given other weights, since it was asked last."""
        try:
            told = copy.server.version()
        except (ServerLostError, NotNowError):
            told = ""
        if told != copy.held:
            if told:
                self._refuse_strangers(copy, told)
            self._lost(copy, copy.lives)

    def _refuse_strangers(self, copy: Copy, told: str) -> None:
        if told != AT_FIRST and told not in _given:
            raise EndpointError(
                f"{copy.server.address}: somebody else has given this server other weights ({told}): one server is "
                "for one run at a time; name another in engine.servers, and go on with --resume"
            )

    def _lost(self, copy: Copy, life: int) -> None:
        """The server has no longer the weights that it had in that life."""
        with copy.lock:
            if copy.lives == life:
                copy.held, copy.lives, copy.probe = "", life + 1, None

    def _give_up(self, told: str) -> NoReturn:
        often = "once" if not self.settings.retries else f"{self.settings.retries + 1} times"
        raise EndpointError(f"{told}; asked {often} (engine.retries); what was finished is kept: go on with --resume")

    def _response(self, index: int, reply: Reply) -> Drawn:
        ended = reply.tokens[-1] == self.chat.stop_id
        if self.chat.stop_id in reply.tokens[:-1]:
            raise EndpointError("a vLLM server goes on after the stop token: this is not the vLLM that Palate knows")
        return Drawn(index, (), reply.tokens, reply.logprobs, ended)

    def _probe(self) -> Draw:
        tokens = self.chat.text_tokens(TOLD * 16)
        return Draw(
            prompt=tokens[: int(min(PROBE_LENGTH, self.model.context - PROBED))],
            max_new_tokens=PROBED,
            temperature=1.0,
            stop_id=self.chat.stop_id,
            seed=0,
        )

    def _taken(self) -> list[Reply | None]:
        """What was drawn after new weights and nobody has looked at."""
        fresh = [copy.fresh for copy in self.copies]
        for copy in self.copies:
            copy.fresh = None
        return fresh

    def _look_at(self, fresh: Sequence[Reply | None]) -> None:
        """Raises:
        TrainingError: a server's draw does not come from these weights.
        """
        for copy, reply in zip(self.copies, fresh, strict=True):
            if reply is None:
                continue
            sequences = Sequences.pack([self._probe().prompt], [reply.tokens]).to(self.model.device)
            ours = self.model.logprobs(sequences, temperature=1.0)[sequences.mask].double().cpu()
            self._compare(copy, reply, ours)
            if copy.probe is not None and reply == replace(copy.probe[0], versions=reply.versions):
                moved = float((ours - copy.probe[1]).abs().max())
                if moved >= self._most_gap / 10:
                    self._refuse(copy, "draws to the last digit what it drew before")
            copy.probe = self._known = (reply, ours)

    def _look_again(self, fresh: Sequence[Reply | None]) -> None:
        """Of a server that has come back: as far as it draws the same tokens, they are as likely as they were.

        The network here is not asked: it may have learned since.

        Raises:
            TrainingError: they are not.
        """
        for copy, reply in zip(self.copies, fresh, strict=True):
            if reply is None or self._known is None:
                continue
            known, ours = self._known
            shared = 0
            while shared < min(len(known.tokens), len(reply.tokens)) and known.tokens[shared] == reply.tokens[shared]:
                shared += 1
            if shared:
                self._compare(copy, replace(reply, logprobs=reply.logprobs[:shared]), ours[:shared])

    def _compare(self, copy: Copy, reply: Reply, ours: torch.Tensor) -> None:
        gap = float((ours - torch.tensor(reply.logprobs)).abs().mean())
        if not gap < self._most_gap:
            self._refuse(copy, f"differs from the network here by {gap:.4f} nats a token (at most {self._most_gap:g})")

    @property
    def _most_gap(self) -> float:
        return MOST_GAP.get(self.model.model.dtype, max(MOST_GAP.values()))

    def _refuse(self, copy: Copy, why: str) -> NoReturn:
        copy.held = ""
        raise TrainingError(
            f"{copy.server.address}: was given new weights, and {why}: the server does not sample from them. Start it "
            'anew with `palate engine`, with --dtype float32 for precision = "fp32" and bfloat16 for bf16, and go on '
            "with --resume"
        )
