"""Distributions for people who read, never for training: top-p, penalties, biases, and what else was likely.

The protocol of OpenAI's API says what the settings mean. Of a token that was drawn c times so far, the logit loses
``c * frequency_penalty``, and ``presence_penalty`` once c is above 0, and gains its bias; all of that before the
temperature divides it. Then the smallest set of most likely tokens that together have ``top_p`` is kept. What is
reported beside the tokens speaks of the model itself: temperature 1, nothing penalised and nothing left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from palate.rollout.drawing import Pick


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """How a distribution is changed before a token is drawn from it.

    Attributes:
        top_p: share of the probability that is kept; 0 keeps the most likely token alone.
        presence_penalty, frequency_penalty: for tokens that were drawn already, once and for each time.
        logit_bias: by token.
        num_likely: report each token's log-probability, and so many of the most likely tokens in its place.
    """

    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_likely: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A token that was drawn, and the most likely ones in its place with their log-probabilities, best first."""

    token: int
    logprob: float
    likely: tuple[tuple[int, float], ...]


class ShapedPick:
    """A `Pick` for one response. Its tensors keep their places, so that a step on a GPU can be captured.

    Args:
        pick: draws from the changed distribution.
        temperature: that the logits were divided by.
    """

    def __init__(
        self, shaping: Shaping, pick: Pick, *, vocabulary: int, temperature: float, device: torch.device
    ) -> None:
        self.shaping, self.pick, self.temperature = shaping, pick, temperature
        self.counts = torch.zeros(1, vocabulary, device=device)
        self.bias = torch.zeros(1, vocabulary, device=device)
        for token, bias in shaping.logit_bias.items():
            self.bias[0, token] = bias
        num_likely = min(shaping.num_likely or 0, vocabulary)
        self._tokens = torch.zeros(1, num_likely, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(1, num_likely, device=device)
        self._logprob = torch.zeros(1, device=device)

    def __call__(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """``logits`` [1, V] -> token [1] and its log-probability [1] in the changed distribution."""
        shaping = self.shaping
        penalty = self.counts * shaping.frequency_penalty + (self.counts > 0) * shaping.presence_penalty
        shaped = keep_top_p(logits + (self.bias - penalty) / self.temperature, shaping.top_p)
        token, logprob = self.pick(shaped, uniform)
        if shaping.num_likely is not None:
            self._note(logits, token)
        return token, logprob

    def add(self, token: int) -> Chosen | None:
        """Count the token that was drawn; what is known about it, if that was asked for."""
        self.counts[0, token] += 1
        if self.shaping.num_likely is None:
            return None
        likely = zip(self._tokens[0].tolist(), self._logprobs[0].tolist(), strict=True)
        return Chosen(token=token, logprob=self._logprob.item(), likely=tuple(likely))

    def _note(self, logits: Tensor, token: Tensor) -> None:
        logprobs = (logits * self.temperature).log_softmax(-1)
        self._logprob.copy_(logprobs[0, token])
        best = logprobs.topk(self._tokens.shape[1])
        self._logprobs.copy_(best.values)
        self._tokens.copy_(best.indices)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Logits [..., V] without the tokens outside the smallest set of most likely ones that together have ``top_p``."""
    if top_p >= 1:
        return logits
    ordered, order = logits.sort(descending=True, stable=True)
    p = ordered.double().softmax(-1)
    outside = p.cumsum(-1) - p >= top_p
    outside[..., 0] = False
    return logits.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf)
