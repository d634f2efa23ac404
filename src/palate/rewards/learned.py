"""A trained reward model as a source of rewards.

Scores are normalised: ``(raw - mean) / scale``, with mean and spread of the raw scores on a stated reference set. The
KL coefficient of RL means something only when rewards have a known origin and unit, so both travel with the model, in
`normalization.json` beside the weights; the weights themselves give the raw score in plain transformers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from palate import disk
from palate.errors import DataError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.encode import encode_responses
from palate.lm.model import ScalarModel, Trunk
from palate.lm.sources.zoo import Loaded, Precision, load_scalar_model, locate
from palate.records import Prompt
from palate.rollout.engine import SampledTokens
from palate.scores import one_number_each

NORMALIZATION_FILE = "normalization.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """Origin and unit of a reward model's scores.

    Attributes:
        mean, scale: of the raw scores on the reference set.
        reference: which responses those were, in words.
        count: how many.
    """

    mean: float = 0.0
    scale: float = 1.0
    reference: str = "none"
    count: int = 0

    @classmethod
    def of(cls, scores: Tensor, reference: str) -> Self:
        """From raw scores [N]; a spread of zero leaves the unit as it is."""
        scale = float(scores.std(correction=0)) or 1.0
        return cls(mean=float(scores.mean()), scale=scale, reference=reference, count=len(scores))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """From a model's directory; the identity if it has none."""
        file = directory / NORMALIZATION_FILE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else cls()

    def to_json(self) -> str:
        """The file's content."""
        return disk.json_text(asdict(self), indent=2) + "\n"


class LearnedReward:
    """A reward model, normalised.

    Args:
        name: its run directory or model directory.
        precision: of matrix products.
        max_tokens: computed tokens in one pass.
        max_length: longest prompt + response in tokens.
    """

    def __init__(
        self, name: str, *, precision: Precision = "auto", max_tokens: int = 4096, max_length: int = 4096
    ) -> None:
        self.loaded: Loaded[ScalarModel] = load_scalar_model(name, precision=precision)
        self.model = self.loaded.model
        self.model.freeze_all()
        self.normalization = Normalization.read(locate(name))
        self.max_tokens, self.max_length = max_tokens, max_length

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B] scores; the sampled tokens themselves are scored when they are given and laid out as it knows them.

        Raises:
            DataError: a response that is too long.
            RewardError: a score that is not finite.
        """
        if tokens is not None and tokens.layout in ("", self.loaded.chat.fingerprint):
            return self._finite(self.score(tokens.sequences, tokens.trunk), responses)
        ended = None if tokens is None else tokens.ended
        encoded = encode_responses(self.loaded.chat, prompts, responses, ended=ended, max_length=self.max_length)
        if encoded.left_out:
            raise DataError(
                f"{len(encoded.left_out)} responses cannot be scored by {self.loaded.name}, the first is "
                f"{encoded.left_out[0].reason}: leave them out"
            )
        return self._finite(self.score(encoded.sequences.to(self.model.device), None), responses)

    def reads_like(self, chat: Chat) -> bool:
        """Whether it was trained on conversations that are laid out as these are."""
        return self.loaded.chat.fingerprint == chat.fingerprint

    def score(self, sequences: Sequences, trunk: Trunk | None) -> Tensor:
        """[B] normalised scores."""
        raw = raw_scores(self.model, sequences, self.max_tokens, trunk)
        return (raw - self.normalization.mean) / self.normalization.scale

    def _finite(self, scores: Tensor, responses: Sequence[str]) -> Tensor:
        advice = "its weights are damaged; train it again, or name another"
        one_number_each(f"the reward model {self.loaded.name}", scores, responses, advice=advice)
        return scores


@torch.no_grad()
def raw_scores(model: ScalarModel, sequences: Sequences, max_tokens: int, trunk: Trunk | None = None) -> Tensor:
    """[B] the head's own output, in the order of the sequences."""
    scores = torch.zeros(len(sequences), device=model.device)
    places = {int(row): place for place, row in enumerate(sequences.rows.tolist())}
    for microbatch in sequences.microbatches(max_tokens):
        index = torch.tensor([places[row] for row in microbatch.rows.tolist()], device=model.device)
        scores[index] = model.scores(microbatch, trunk=trunk)
    return scores
