"""Simulated teachers of an agent: who compares two clips of behaviour by the true reward, each in a way of its own.

A teacher gives probabilities, [P, 4] for P pairs: that the first clip is preferred, that neither is, that the second
is, and that the pair is skipped. ``answers`` draws from them. So what a teacher is can be held against its formula.

    perfect     the clip with the larger return
    mistaken    the same, but for a share of mistakes
    noisy       Boltzmann: surer the more the returns differ
    skipping    the same as perfect, but says nothing where both clips are poor
    equal       the same, but calls nearly equal ones equal
    myopic      the same, but what comes later in a clip counts more
    at_random   a coin: the lower control

Equal returns are a tie for all but the last, since nothing tells the clips apart.

Lee et al. 2021 (B-Pref, arXiv 2111.03026), section 4 and algorithm 3. Left out: teachers that are several of these at
once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palate.objectives.preference import bradley_terry_probability

FIRST, TIE, SECOND, SKIP = range(4)
"""Verdicts, by their column among the probabilities."""


def perfect(first: Tensor, second: Tensor) -> Tensor:
    """The larger return is preferred.

    Args:
        first, second: [P, L] true rewards of the steps of two clips, of one length.

    Returns:
        [P, 4] probabilities, as those of all teachers here.
    """
    return _by_order(first.sum(1) - second.sum(1))


def mistaken(first: Tensor, second: Tensor, *, mistake_rate: float) -> Tensor:
    """The larger return is preferred, but for a share of mistakes; B-Pref has one in ten."""
    right = perfect(first, second)
    return (1 - mistake_rate) * right + mistake_rate * right[:, [SECOND, TIE, FIRST, SKIP]]


def noisy(first: Tensor, second: Tensor, *, rationality: float) -> Tensor:
    """P(first) = sigmoid(rationality * (return of the first - return of the second)).

    B-Pref's equation 4 with no discount; Bradley and Terry's model, as the reward networks have it.
    """
    wins = bradley_terry_probability(rationality * first.sum(1), rationality * second.sum(1))
    nothing = torch.zeros_like(wins)
    return torch.stack([wins, nothing, 1 - wins, nothing], 1)


def skipping(first: Tensor, second: Tensor, *, least: float) -> Tensor:
    """As perfect, but skips a pair of which neither clip's return reaches ``least``."""
    poor = torch.maximum(first.sum(1), second.sum(1)) < least
    return torch.where(poor[:, None], _always(SKIP, first), perfect(first, second))


def equal(first: Tensor, second: Tensor, *, within: float) -> Tensor:
    """As perfect, but returns that differ by less than ``within`` are a tie."""
    near = (first.sum(1) - second.sum(1)).abs() < within
    return torch.where(near[:, None], _always(TIE, first), perfect(first, second))


def myopic(first: Tensor, second: Tensor, *, discount: float) -> Tensor:
    """As perfect of returns in which a step counts ``discount`` times as much as the one after it."""
    length = first.shape[1]
    weights = discount ** torch.arange(length - 1, -1, -1, dtype=first.dtype)  # 1 for the last step
    return perfect(first * weights, second * weights)


def at_random(first: Tensor, second: Tensor) -> Tensor:
    """Either clip with the same probability, whatever is in them."""
    half = torch.full((len(first),), 0.5, dtype=first.dtype)
    nothing = torch.zeros_like(half)
    return torch.stack([half, nothing, half, nothing], 1)


def adapted_threshold(returns: Tensor, share: float) -> float:
    """A share of the mean of clips' returns [N], counted from the lowest of them.

    B-Pref's thresholds are a share of the policy's mean return (section 4), so that they grow with what it can do;
    that means something where rewards are above zero. Counted from the lowest, and zero being the lowest, it is theirs.
    """
    return share * float(returns.mean() - returns.min())


def answers(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """[P] verdicts, drawn from the probabilities [P, 4] by uniform numbers [P] in [0, 1)."""
    passed = uniforms[:, None] >= probabilities.cumsum(1)
    return passed.sum(1).clamp(max=SKIP)  # the sum may be a rounding below 1


def _by_order(gaps: Tensor) -> Tensor:
    wins, loses = (gaps > 0).to(gaps.dtype), (gaps < 0).to(gaps.dtype)
    return torch.stack([wins, 1 - wins - loses, loses, torch.zeros_like(gaps)], 1)


def _always(verdict: int, like: Tensor) -> Tensor:
    """[1, 4] a probability of 1 for one verdict."""
    row = torch.zeros(1, 4, dtype=like.dtype)
    row[0, verdict] = 1.0
    return row
