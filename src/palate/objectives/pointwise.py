"""Losses of judgements about one response alone: a rating on a scale of words, a flag that was set or not.

They speak of the same scores as `losses.ranking_loss`, on the scale of log-odds, and obey the same rule: every
microbatch divides its sum by the denominator of the whole optimizer step. Unlike comparisons they know where zero is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from palate.objectives.losses import Metrics


def increasing(raw: Tensor) -> Tensor:
    """Any numbers [..., C - 1] -> thresholds [..., C - 1], each above the one before whatever the numbers are.

    thresholds[0] = raw[0],  thresholds[j] = thresholds[j - 1] + softplus(raw[j])
    """
    return torch.cat([raw[..., :1], softplus(raw[..., 1:])], -1).cumsum(-1)


def not_yet_increasing(thresholds: Tensor) -> Tensor:
    """What `increasing` makes these thresholds of, [..., C - 1] -> [..., C - 1]; the gaps must be above 0."""
    gaps = thresholds.diff(dim=-1)
    return torch.cat([thresholds[..., :1], gaps + torch.log(-torch.expm1(-gaps))], -1)


def rating_log_probabilities(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Log-probability, in nats, that a response of this score is given each of C ratings: the cumulative logit model.

    McCullagh 1980, "Regression models for ordinal data", section 2 (proportional odds):

        P(rating <= j) = sigmoid(thresholds[j] - score)
        P(rating = j) = sigmoid(a) - sigmoid(b) = sigmoid(a) * sigmoid(-b) * (1 - exp(b - a)),
                        a = thresholds[j] - score,  b = thresholds[j - 1] - score

    Args:
        scores: [N].
        thresholds: [C - 1], increasing.

    Returns:
        [N, C], the lowest rating first.
    """
    below = thresholds[None, :] - scores[:, None]  # [N, C - 1]
    inside = torch.log(-torch.expm1(-thresholds.diff()))  # [C - 2], of the gaps alone
    at_most, above = logsigmoid(below), logsigmoid(-below)
    middle = at_most[:, 1:] + above[:, :-1] + inside
    return torch.cat([at_most[:, :1], middle, above[:, -1:]], 1)


def rating_loss(
    scores: Tensor,
    ratings: Tensor,
    thresholds: Tensor,
    *,
    weights: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood of ratings under the cumulative logit model, in nats.

        loss = - sum_n weights[n] * log P(ratings[n] | scores[n]) / denominator

    A rating between two points, such as the mean of several people's, counts as both in proportion to its nearness.

    Args:
        scores: [N]; the gradient flows through this argument and the thresholds.
        ratings: [N] from 1 to C.
        thresholds: [C - 1], increasing; C = 7 for Likert's scale.
        weights: [N]; 1 if left out.
        denominator: of the whole optimizer step; the sum of the weights here if left out.

    Returns:
        The loss and `reward/rating_loss`; `reward/rating_error`, the distance between a rating and the one expected.

    Raises:
        ValueError: a rating that is not on the scale, or nothing to divide by.
    """
    count = thresholds.shape[-1] + 1
    if ((ratings < 1) | (ratings > count)).any():
        raise ValueError(f"a rating is a number from 1 to {count}")
    weights, total = _weighted(scores, ratings, weights, denominator)
    log_probabilities = rating_log_probabilities(scores, thresholds)
    lower = (ratings - 1).floor().clamp(max=count - 2).long()  # the top rating is wholly the upper of its two
    part = ratings - 1 - lower
    each = torch.stack([1 - part, part], 1) * log_probabilities.gather(1, torch.stack([lower, lower + 1], 1))
    loss = -(weights * each.sum(1)).sum() / total
    points = torch.arange(1, count + 1, device=scores.device, dtype=scores.dtype)
    expected = (log_probabilities.detach().exp() * points).sum(1)
    return loss, {
        "reward/rating_loss": loss.detach(),
        "reward/rating_error": (weights * (expected - ratings).abs()).sum() / total,
    }


def flag_loss(
    scores: Tensor, flags: Tensor, *, weights: Tensor | None = None, denominator: float | Tensor | None = None
) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood of flags, P(flag) = sigmoid(score), in nats: logistic regression (Cox 1958).

        loss = - sum_n weights[n] * (flags[n] * log sigmoid(scores[n]) + (1 - flags[n]) * log sigmoid(-scores[n]))
               / denominator

    Args:
        scores: [N] log-odds; the gradient flows through this argument only.
        flags: [N], 1 where it was set and 0 where it was not.
        weights: [N]; 1 if left out.
        denominator: of the whole optimizer step; the sum of the weights here if left out.

    Returns:
        The loss and `reward/flag_loss`.

    Raises:
        ValueError: nothing to divide by.
    """
    weights, total = _weighted(scores, flags, weights, denominator)
    losses = -flags * logsigmoid(scores) - (1 - flags) * logsigmoid(-scores)
    loss = (weights * losses).sum() / total
    return loss, {"reward/flag_loss": loss.detach()}


def _weighted(
    scores: Tensor, labels: Tensor, weights: Tensor | None, denominator: float | Tensor | None
) -> tuple[Tensor, float | Tensor]:
    """The weights [N], and what the sum is divided by."""
    weights = torch.ones_like(scores) if weights is None else weights
    assert scores.dim() == 1
    assert scores.shape == labels.shape == weights.shape, f"{scores.shape}, {labels.shape}, {weights.shape}"
    total = weights.sum() if denominator is None else denominator
    if denominator is None and not total:
        raise ValueError("nothing was judged: pass the denominator of the whole optimizer step")
    return weights, total
