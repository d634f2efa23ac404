"""A trained reward model as a source of rewards.

Scores are normalised: ``(raw - mean) / scale``, with mean and spread of the raw scores on a stated reference set. The
KL coefficient of RL means something only when rewards have a known origin and unit, so both travel with the model, in a
file beside the weights (see `heads`); the weights themselves give the raw scores in plain transformers. All heads of a
model are computed in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palate.errors import DataError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.encode import encode_responses
from palate.lm.microbatches import in_parts
from palate.lm.model import ScalarModel, Trunk
from palate.lm.sources.zoo import Loaded, Precision, Settle, load_scalar_model, locate
from palate.records import Prompt
from palate.rewards.heads import places_of, read_heads, stacked
from palate.rollout.engine import SampledTokens
from palate.scores import one_number_each

MAX_TOKENS = 4096
"""Computed in one pass, if nobody says how many."""


class LearnedReward:
    """A reward model, normalised.

    Args:
        name: its run directory or model directory.
        precision: of matrix products.
        max_tokens: computed tokens in one pass.
        max_length: longest prompt + response in tokens.
        settle: what is done with the model before it is put on its device.
    """

    def __init__(
        self,
        name: str,
        *,
        precision: Precision = "auto",
        max_tokens: int = MAX_TOKENS,
        max_length: int = 4096,
        settle: Settle | None = None,
    ) -> None:
        self.loaded: Loaded[ScalarModel] = load_scalar_model(name, precision=precision, settle=settle)
        self.model = self.loaded.model
        self.model.freeze_all()
        self.heads = read_heads(locate(name), self.model.num_heads)
        self.max_tokens, self.max_length = max_tokens, max_length

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B] scores: the mean of its heads, which are all for one objective.

        Raises:
            RecipeError: they are for several.
        """
        places = places_of(self.heads, "", self.loaded.name)
        return self.by_head(prompts, responses, tokens)[:, places].mean(1)

    def by_head(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B, H] scores; the sampled tokens themselves are scored when they are given and laid out as it knows them.

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
        """[B, H] normalised scores."""
        return stacked(self.heads, raw_scores(self.model, sequences, self.max_tokens, trunk))

    def _finite(self, scores: Tensor, responses: Sequence[str]) -> Tensor:
        advice = "its weights are damaged; train it again, or name another"
        for head in scores.unbind(1):
            one_number_each(f"the reward model {self.loaded.name}", head, responses, advice=advice)
        return scores


def raw_scores(model: ScalarModel, sequences: Sequences, max_tokens: int, trunk: Trunk | None = None) -> Tensor:
    """[B, H] the heads' own outputs, in the order of the sequences."""
    scores = torch.zeros(len(sequences), model.num_heads, device=model.device)
    places = {int(row): place for place, row in enumerate(sequences.rows.tolist())}
    found = in_parts(sequences, max_tokens, lambda microbatch: model.scores(microbatch, trunk=trunk), "scores")
    for microbatch, numbers in found:
        index = torch.tensor([places[row] for row in microbatch.rows.tolist()], device=model.device)
        scores[index] = numbers.to(model.device)
    return scores
