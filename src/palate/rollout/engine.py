"""What a sampling engine takes and gives.

Responses are drawn from the full distribution at one temperature. There is no top-p, top-k or repetition penalty: under
any of them the log-probabilities that RL needs would be those of another policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from palate.lm.batch import Sequences, widened
from palate.lm.model import LanguageModel, Trunk
from palate.recipe import Sampling
from palate.records import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """P prompts times K responses, B = P * K, the responses of a prompt side by side.

    Attributes:
        prompts: [B], each repeated for its responses.
        texts: [B] what the responses say.
        sequences: their tokens, exactly as they were drawn.
        logprobs: [B, T] of the distribution they were drawn from.
        ended: [B] bool, a stop token was drawn; the others were cut off.
        temperature: of that distribution.
        layout: fingerprint of the chat that laid them out; empty if nobody asked.
        weights: fingerprint of the weights that drew them, if they were drawn by copies; empty: by the very network.
        retries: requests that were made again for them.
        staleness: by how many steps those weights are older than the ones that learn from them.
    """

    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    sequences: Sequences
    logprobs: Tensor
    ended: Tensor
    temperature: float
    layout: str = ""
    weights: str = ""
    retries: int = 0
    staleness: int = 0

    def sampled_tokens(self, trunk: Trunk | None = None) -> SampledTokens:
        """The tokens behind the texts, for sources of rewards that are models."""
        return SampledTokens(
            sequences=self.sequences, ended=tuple(self.ended.tolist()), trunk=trunk, layout=self.layout
        )

    def select(self, rows: Tensor) -> Rollout:
        """The responses at ``rows`` [N]."""
        sequences = self.sequences.select(rows)
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in rows.tolist()),
            texts=tuple(self.texts[row] for row in rows.tolist()),
            sequences=sequences,
            logprobs=self.logprobs[rows, : sequences.mask.shape[1]],
            ended=self.ended[rows.to(self.ended.device)],
        )


def join(rollouts: Sequence[Rollout]) -> Rollout:
    """All responses, one rollout after the other; the prompts of one are never those of another.

    All of them were drawn by the same weights.
    """
    assert len({rollout.weights for rollout in rollouts}) == 1, "responses of several policies are no rollout of one"
    sequences = Sequences.join([rollout.sequences for rollout in rollouts])
    width = sequences.mask.shape[1]
    return replace(
        rollouts[0],
        prompts=tuple(prompt for rollout in rollouts for prompt in rollout.prompts),
        texts=tuple(text for rollout in rollouts for text in rollout.texts),
        sequences=sequences,
        logprobs=torch.cat([widened(rollout.logprobs, width) for rollout in rollouts]),
        ended=torch.cat([rollout.ended for rollout in rollouts]),
        retries=sum(rollout.retries for rollout in rollouts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """The tokens that B texts came from, so that no model has to tokenise them again.

    Attributes:
        sequences: prompts and responses.
        ended: [B] which of them end with a stop token.
        trunk: their frozen layers' hidden states, if somebody has computed them.
        layout: fingerprint of the chat that laid them out; empty: of the one that will read them.
    """

    sequences: Sequences
    ended: tuple[bool, ...]
    trunk: Trunk | None = None
    layout: str = ""


class RolloutEngine(Protocol):
    """Draws responses and says how likely each token was."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        num_responses: int,
        key: tuple[int | str, ...],
        show: Callable[[int, int], None] | None = None,
    ) -> Rollout:
        """K responses to each prompt; a response depends on ``key``, its prompt and its number alone.

        ``show`` is told how many of how many responses are done.
        """
        ...

    def load_weights(self, model: LanguageModel) -> None:
        """Sample from these weights from now on: called before the first rollout, and after every update."""
        ...
