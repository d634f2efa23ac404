"""Relatives of PPO's surrogate, and the divergence as a loss.

`losses.policy_loss` and what is here have one signature and compose with every advantage and with every weight of a
response (`advantages`):

    loss(new_logprobs, logprobs, weights[:, None] * advantages, mask, denominator=tokens of the whole step)

Non-finite numbers inside the mask show; whatever lies outside it changes neither loss nor gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from palate.objectives.losses import Metrics, policy_loss


def sequence_policy_loss(
    new_logprobs: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The clipped surrogate with one ratio for the whole response (GSPO).

    Zheng et al. 2025 (arXiv:2507.18071), equations 5 and 7: the geometric mean of the tokens' ratios,

        ratio[b] = exp(1/l[b] * sum_t mask[b,t] * (new_logprobs[b,t] - logprobs[b,t]))

    stands at every token of `policy_loss`; with `sequence_weights` the loss is then the paper's mean over responses.

    Args:
        new_logprobs, logprobs, advantages, mask, clip_range, clip_range_high, denominator: as in `policy_loss`; the
            ranges are smaller by orders of magnitude, because a mean over tokens hardly moves.

    Returns:
        As `policy_loss`; the ratios in the metrics are the responses', each counted once for each of its tokens, but
        `policy/approx_kl` is the tokens'.

    Raises:
        ValueError: the mask is empty and no denominator was given.
    """
    log_ratio = torch.where(mask, new_logprobs - logprobs, 0.0)
    mean = (log_ratio.sum(1) / mask.sum(1).clamp(min=1))[:, None].expand(mask.shape)
    loss, metrics = policy_loss(
        mean,
        torch.zeros_like(mean),
        advantages,
        mask,
        clip_range=clip_range,
        clip_range_high=clip_range_high,
        denominator=denominator,
    )
    count, log_ratio = mask.sum() if denominator is None else denominator, log_ratio.detach()
    return loss, metrics | {"policy/approx_kl": (log_ratio.expm1() - log_ratio).sum() / count}


def clipped_weight_loss(
    new_logprobs: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """REINFORCE with clipped importance weights that carry no gradient (CISPO): no token is left out.

    MiniMax 2025 (arXiv:2506.13585), equations 4 and 5:

        weight[b,t] = stop_gradient(clip(ratio[b,t], 1 - clip_range, 1 + clip_range_high))
        loss = - sum_{b,t} mask * weight * advantages * new_logprobs / denominator

    Args:
        new_logprobs, logprobs, advantages, mask, denominator: as in `policy_loss`.
        clip_range: below 1; from 1 on nothing is clipped there, as in the paper.
        clip_range_high: above 1; `clip_range` if left out.

    Returns:
        As `policy_loss`; `policy/clip_fraction` is the share of tokens whose weight is not their ratio.

    Raises:
        ValueError: the mask is empty and no denominator was given.
    """
    _, metrics = policy_loss(
        new_logprobs.detach(), logprobs, advantages, mask, clip_range=math.inf, denominator=denominator
    )
    count = mask.sum() if denominator is None else denominator
    new_logprobs, advantages = torch.where(mask, new_logprobs, 0.0), torch.where(mask, advantages, 0.0)
    ratio = torch.where(mask, new_logprobs.detach() - logprobs, 0.0).exp()
    weight = ratio.clamp(1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high))
    loss = -(weight * advantages * new_logprobs).sum() / count
    return loss, metrics | {"policy/loss": loss.detach(), "policy/clip_fraction": (weight != ratio).sum() / count}


def kl_loss(
    new_logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    *,
    weights: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """k3 of the policy in training to the reference, as a loss; a mean over tokens, in nats.

    Shao et al. 2024 (arXiv:2402.03300), equation 4, with d = new_logprobs - ref_logprobs:

        loss = sum_{b,t} mask * weights[b] * (exp(-d) - 1 + d) / denominator

    Its gradient on the policy's own samples is that of KL(reference || policy), not of KL(policy || reference): another
    optimum than with the price in the reward (`shape_rewards`). See `divergence`.

    Args:
        new_logprobs: [B, T], of the policy in training; the gradient flows through this argument only.
        ref_logprobs: [B, T], of the reference policy at the same tokens.
        mask: [B, T] boolean, the response tokens.
        weights: [B, 1] of the responses, as in the policy loss; 1 if left out.
        denominator: response tokens in the whole optimizer step; the mask's own count if left out.

    Returns:
        The loss and `policy/kl_loss`.

    Raises:
        ValueError: the mask is empty and no denominator was given.
    """
    assert not ref_logprobs.requires_grad, "ref_logprobs must not require a gradient: it is data, not a prediction"
    count = mask.sum() if denominator is None else denominator
    if denominator is None and not mask.any():
        raise ValueError("the mask selects no token: pass the denominator of the whole optimizer step")
    d = torch.where(mask, new_logprobs - ref_logprobs, 0.0)
    k3 = torch.expm1(-d) + d
    loss = (k3 if weights is None else weights * k3).sum() / count
    return loss, {"policy/kl_loss": loss.detach()}
