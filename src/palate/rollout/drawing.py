"""Drawing tokens: the part that every way of decoding shares.

One uniform number decides each token, so a response does not depend on how or beside what it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128

Pick = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits [S, V], uniform [S]) -> tokens [S] and their log-probabilities [S]: `draw`, or `most_likely`."""


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by the inverse of the cumulative distribution, found in two levels.

    Args:
        logits: [S, V] fp32, already divided by the temperature; overwritten.
        uniform: [S] float64 in [0, 1).

    Returns:
        tokens [S] and their log-probabilities [S].
    """
    vocabulary = logits.shape[-1]
    p = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    if vocabulary % BLOCK:  # padding copies
        p = F.pad(p, (0, -vocabulary % BLOCK))
    blocks = p.view(len(p), -1, BLOCK)
    cumulative = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    block, target = _invert(cumulative, uniform[:, None] * total)
    rows = torch.arange(len(p), device=p.device)
    offset, _ = _invert(blocks[rows, block].double().cumsum(-1), target)
    token = block * BLOCK + offset
    return token, (p[rows, token].double() / total[:, 0]).log().float()


def most_likely(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely token per row, with certainty: what temperature 0 means. Only for serving; RL has to sample."""
    return logits.argmax(-1), torch.zeros(len(logits), device=logits.device)


def _invert(cumulative: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum [S, N] first exceeds the target [S, 1]: a place [S], and what is left of the target there.

    A target that rounding has put at or past the end falls into the last place that has any mass.
    """
    below_end = torch.nextafter(cumulative[:, -1:], torch.zeros_like(target))
    target = torch.minimum(target, below_end)
    place = torch.searchsorted(cumulative, target, right=True)
    before = torch.where(place > 0, cumulative.gather(-1, (place - 1).clamp(min=0)), 0.0)
    return place[:, 0], target - before


@dataclass(slots=True)
class Drawn:
    """One response being drawn.

    Attributes:
        prompt: index of its prompt.
        uniform: one number for each token it may have.
        ended: the last token is the stop token.
        done: nothing more will be drawn.
    """

    prompt: int
    uniform: Sequence[float]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def done(self) -> bool:
        """Ended, or as long as it may be."""
        return self.ended or len(self.tokens) == len(self.uniform)

    @property
    def next_uniform(self) -> float:
        """What decides the next token."""
        return self.uniform[len(self.tokens)]

    def add(self, token: int, logprob: float, stop_id: int) -> None:
        """The next token."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.ended = token == stop_id
