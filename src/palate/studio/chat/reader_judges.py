"""How far responses follow their reader's principles: asked of a model here, or of one elsewhere.

A model that runs here is one of the worker's own, and is asked in one go, as rewards are. What an endpoint is asked
waits in a thread, and other people's generations go on meanwhile. Its answers are kept in a temporary folder as long as
this process lives; what was asked is in no file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.recipe import ReaderJudge, Sampling
from palate.rewards.judges.endpoint_client import EndpointClient
from palate.rewards.judges.judge_model import JudgeModel
from palate.rewards.judges.local_judge import LocalJudge
from palate.rewards.judges.reader_principles import PrinciplesReward
from palate.rewards.judges.remote_judge import RemoteJudge
from palate.studio.chat import wire

AT_ONCE = 4
"""Answers whose principles are asked about elsewhere at the same time."""
WAIT_SECONDS = 0.02
"""For an endpoint in one turn, before others have theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """How far responses follow principles.

    Attributes:
        log_odds: [P, n] of Yes against No.
        weight: of each of them in the scores.
        checkpoints: hash of the weights of the judge, by name; of one elsewhere nobody knows it.
    """

    log_odds: Tensor
    weight: float
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def added_to(self, scores: Tensor | None) -> Tensor:
        """[n] the scores of a reward, if there is one, and what the principles add."""
        total = self.weight * self.log_odds.sum(0)
        return total if scores is None else scores.double() + total


NONE = Fits(log_odds=torch.zeros(0, 0), weight=0.0)
"""Of a reader who has no principles."""


class ReaderJudges:
    """Judges that readers' principles are asked of.

    Args:
        load: gives a model that runs here.
    """

    def __init__(self, load: Callable[[str], Loaded[LanguageModel]]) -> None:
        self.load = load
        self._elsewhere: dict[ReaderJudge, RemoteJudge] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._threads = ThreadPoolExecutor(AT_ONCE)

    def named(self, judge: ReaderJudge) -> JudgeModel:
        """Ready to be asked.

        Raises:
            ModelError: there is no such model.
            EndpointError: the key of its endpoint is not there.
        """
        if judge.endpoint is None:
            return LocalJudge(self.load(judge.model), Sampling(), seed=0)
        if judge not in self._elsewhere:
            self._folder = self._folder or TemporaryDirectory(prefix="palate-principles-")
            client = EndpointClient(judge.endpoint, judge.model, Path(self._folder.name))
            self._elsewhere[judge] = RemoteJudge(client, Sampling(), seed=0)
        return self._elsewhere[judge]

    def close(self) -> None:
        """Wait for nobody, and remove what was kept."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._folder is not None:
            self._folder.cleanup()

    def fits(
        self, judge: ReaderJudge, request: wire.Generate, texts: Sequence[str]
    ) -> Generator[wire.Event, None, Fits]:
        """Asks about all responses; while it waits it yields a piece without text, which is sent to nobody.

        Raises:
            PalateError: it cannot be asked, or does not answer.
        """
        model, prompts = self.named(judge), [request.prompt] * len(texts)
        reward = PrinciplesReward(model, request.principles)
        if isinstance(model, LocalJudge):
            found, checkpoints = reward.by_principle(prompts, texts), {judge.model: model.loaded.weights}
            return Fits(log_odds=found, weight=judge.weight, checkpoints=checkpoints)
        waiting = self._threads.submit(reward.by_principle, prompts, texts)
        while not waiting.done():
            wait([waiting], timeout=WAIT_SECONDS)
            yield wire.Piece(id=request.id, index=0, text="")
        return Fits(log_odds=waiting.result(), weight=judge.weight)
