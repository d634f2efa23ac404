"""One score from the several that an ensemble gives a response.

Where comparisons are few the members of an ensemble disagree, and there a policy finds what one of them overrates. A
conservative aggregate pays for no score that the others do not see.

Coste et al. 2023 (arXiv:2310.02743), section 3: the mean, the worst case, and the mean minus a multiple of the variance
("uncertainty-weighted"). The mean minus a multiple of the standard deviation is the same idea in the unit of the score.
"""

from __future__ import annotations

from torch import Tensor


def ensemble_mean(scores: Tensor) -> Tensor:
    """The mean of the members, [B, H] -> [B]: less noise, no caution."""
    return scores.mean(-1)


def worst_case(scores: Tensor) -> Tensor:
    """The lowest score that any member gives, [B, H] -> [B]: Coste et al. 2023, equation 4."""
    return scores.amin(-1)


def mean_minus_std(scores: Tensor, *, coef: float) -> Tensor:
    """The mean minus ``coef`` standard deviations of the members, [B, H] -> [B]; in the unit of the scores."""
    return scores.mean(-1) - coef * spread(scores)


def mean_minus_variance(scores: Tensor, *, coef: float) -> Tensor:
    """The mean minus ``coef`` variances of the members, [B, H] -> [B]: Coste et al. 2023, equation 5."""
    return scores.mean(-1) - coef * scores.var(-1, correction=0)


def spread(scores: Tensor) -> Tensor:
    """Standard deviation of the members around their mean, [B, H] -> [B]; 0 of one member."""
    return scores.std(-1, correction=0)
