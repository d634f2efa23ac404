"""Which answer a labeler would choose, given rewards.

A reward is on the scale of log-odds: one unit more multiplies the odds of being preferred by e. Only differences count,
so rewards are known up to a constant for each prompt. Fitting them from data is `losses.ranking_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bradley_terry_probability(reward_a: Tensor, reward_b: Tensor) -> Tensor:
    """P(a is preferred to b) = sigmoid(reward_a - reward_b).

    Bradley and Terry 1952; as a model of labelers, Christiano et al. 2017 (arXiv:1706.03741), equation 1.

    Args:
        reward_a: any shape.
        reward_b: a shape that broadcasts with it.
    """
    return torch.sigmoid(reward_a - reward_b)


def plackett_luce_log_probability(rewards_in_rank_order: Tensor) -> Tensor:
    """Log-probability, in nats, of a strict ranking: the best is chosen first, then the best of the rest, and so on.

    Plackett 1975; with two answers it is Bradley-Terry:

        log P = sum_k rewards[k] - log sum_{j >= k} exp(rewards[j])

    Args:
        rewards_in_rank_order: [..., K], the best answer first.

    Returns:
        [...].
    """
    remaining = rewards_in_rank_order.flip(-1).logcumsumexp(-1).flip(-1)
    return (rewards_in_rank_order - remaining).sum(-1)
