"""From scores to what a policy learns from: shaped rewards, advantages, returns, whitening.

Baselines, in the order of what they cost: none, the mean of the batch (`batch_relative`), the mean of the other answers
to the same prompt (`leave_one_out`) or of all of them (`group_relative`), a value model (`gae`). All of them are
computed once for each rollout, over the whole batch and never over a microbatch, and none of them carries a gradient.

Weights turn the mean over tokens, which losses are, into another one. N responses of lengths l[b] have L tokens in all:

    token_weights       1                a mean over tokens: a long response counts more than a short one
    sequence_weights    L / (N * l[b])   a mean over each response's tokens, then over responses: long ones are diluted
    constant_weights    L / (N * max)    a sum over each response's tokens, over a constant: neither

All three have the same optimum where a policy can fit every response; they differ in the way there, and in what gives
way where it cannot (Liu et al. 2025, arXiv:2503.20783, section 3.1; Yu et al. 2025, arXiv:2503.14476, section 3.3).

Left out: bootstrapping from the value at a cut-off. A response that hit the length limit is treated as ended, because
its reward already is: the stage scores truncated responses by an explicit rule, and adding the value of a continuation
that will never be judged would pay it twice. Packed rows and several turns in one row are left out too: a row is one
prompt and one response, and `gae` refuses a mask with a hole.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDINGS = 16  # a score is a sum of some dozen terms, each of which was rounded
_VARIANCE_EPS = 1e-8


def shape_rewards(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """Rewards per token: the price of divergence on every response token, and the score on the last one.

    Ziegler et al. 2019 (arXiv:1909.08593), section 2, token by token:

        rewards[b,t] = -kl_coef * (logprobs[b,t] - ref_logprobs[b,t]) + scores[b] * [t is the last response token of b]

    Hence `rewards.sum(1) == scores - kl_coef * k1.sum(1)`, and a policy gradient on it climbs E[score] - kl_coef *
    KL(policy || reference).

    Args:
        scores: [B], one score for each response.
        logprobs: [B, T], of the behaviour policy, in nats.
        ref_logprobs: [B, T], of the reference policy at the same tokens.
        mask: [B, T] boolean, the response tokens.
        kl_coef: score per nat.

    Returns:
        [B, T], zero outside the mask.

    Raises:
        ValueError: a response has no token to carry its score.
    """
    assert scores.ndim == 1, f"scores are [B], not {tuple(scores.shape)}"
    _check_per_token(mask, logprobs, ref_logprobs)
    assert mask.shape[0] == scores.shape[0], f"{scores.shape[0]} scores for {mask.shape[0]} rows"
    if not mask.any(1).all():
        raise ValueError(f"rows without a response token: {(~mask.any(1)).nonzero().flatten().tolist()}")
    rewards = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    position = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, position, -1).argmax(1)  # [B]
    return rewards + torch.where(position == last[:, None], scores[:, None], 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over the response tokens.

    Schulman et al. 2016 (arXiv:1506.02438), equation 16, from the last response token backwards:

        delta[b,t] = rewards[b,t] + gamma * values[b,t+1] - values[b,t]
        advantages[b,t] = delta[b,t] + gamma * gae_lambda * advantages[b,t+1]
        returns[b,t] = advantages[b,t] + values[b,t]

    where values and advantages after the last response token are 0, also for a response that was cut off.

    Args:
        rewards: [B, T], earned by choosing `tokens[:, t]`.
        values: [B, T], before `tokens[:, t]` is chosen.
        mask: [B, T] boolean, the response tokens, one contiguous run in each row.
        gamma: the discount per token.
        gae_lambda: 0 trusts the values (one-step), 1 trusts the rewards (Monte Carlo).

    Returns:
        Advantages and returns, both [B, T] and zero outside the mask.

    Raises:
        ValueError: the mask of a row has a hole.
    """
    _check_per_token(mask, rewards, values)
    starts = mask[:, 1:] & ~mask[:, :-1]
    if ((starts.sum(1) + mask[:, 0]) > 1).any():
        raise ValueError("the response tokens of a row must be one contiguous run: split turns into rows")
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])  # [B]
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(mask[:, t], delta + gamma * gae_lambda * next_advantage, 0.0)
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


def no_baseline(scores: Tensor, group_ids: Tensor) -> Tensor:
    """The scores [B] as they are: Williams 1992, equation 11 with b = 0. Unbiased, and as noisy as can be."""
    return scores


def batch_relative(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Each score [B] minus the mean of all of them, whatever the prompt.

    The mean holds the answer itself, so that the gradient is (B - 1) / B of the unbiased one. It takes off what all
    prompts have in common, and nothing of what distinguishes hard prompts from easy ones.
    """
    return scores - scores.mean()


def leave_one_out(scores: Tensor, group_ids: Tensor) -> Tensor:
    """Each score minus the mean of the other scores of its group (RLOO).

    Kool et al. 2019; Ahmadian et al. 2024 (arXiv:2402.14740):

        advantages[i] = scores[i] - sum_{j in group, j != i} scores[j] / (n - 1) = n / (n - 1) * (scores[i] - mean)

    The baseline does not depend on the answer itself, so the policy gradient stays unbiased.

    Args:
        scores: [B], any shaping (a KL penalty, say) already inside.
        group_ids: [B], any numbers in any order; answers to one prompt have the same.

    Returns:
        [B].

    Raises:
        ValueError: a group has only one answer.
    """
    centred, size = _centred(scores, group_ids)
    if (size < 2).any():
        alone = group_ids[size < 2].tolist()
        raise ValueError(f"leave-one-out needs two answers or more for each prompt; groups of one: {alone}")
    return centred * size / (size - 1)


def group_relative(scores: Tensor, group_ids: Tensor, *, scale: bool) -> Tensor:
    """Each score minus the mean of its group, divided by the group's standard deviation if `scale` (GRPO).

    Shao et al. 2024 (arXiv:2402.03300), section 4.1; without `scale`, Liu et al. 2025 (arXiv:2503.20783), who show that
    the division favours prompts that are nearly always or nearly never answered well:

        advantages[i] = (scores[i] - mean) / std

    std is that of the population, sqrt(sum (scores - mean)^2 / n), so that a scaled group has mean square 1. A group
    whose scores do not `differ`, one answer alone among them, gets exactly 0 if scaled: no signal, no NaN, and no
    rounding blown up to the size of one; the caller counts those.

    Args:
        scores: [B].
        group_ids: [B], any numbers in any order; answers to one prompt have the same.
        scale: whether to divide by the standard deviation of the group.

    Returns:
        [B].
    """
    centred, size = _centred(scores, group_ids)
    if not scale:
        return centred
    same = group_ids[:, None] == group_ids[None, :]
    std = (torch.where(same, centred.square(), 0.0).sum(1) / size).sqrt()
    lowest = torch.where(same, scores[None, :], torch.inf).amin(1)
    highest = torch.where(same, scores[None, :], -torch.inf).amax(1)
    return torch.where(differ(lowest, highest), centred / std, 0.0 * centred)  # of what is not finite: NaN


def differ(lower: Tensor, higher: Tensor) -> Tensor:
    """Whether higher scores are above lower ones by more than rounding, boolean; shapes broadcast.

    What lies within a few roundings of the larger one would say the same if it had been added up in another order.
    """
    size = torch.maximum(lower.abs(), higher.abs())
    return higher - lower > _ROUNDINGS * torch.finfo(size.dtype).eps * size


def token_weights(lengths: Tensor) -> Tensor:
    """[N] ones: every token counts the same."""
    return torch.ones(lengths.shape, device=lengths.device)


def sequence_weights(lengths: Tensor) -> Tensor:
    """[N] for lengths [N] of all responses of an optimizer step: every response counts the same (GRPO).

    Shao et al. 2024 (arXiv:2402.03300), equation 3: 1/G sum_i 1/|o_i| sum_t.
    """
    return (lengths.sum() / (len(lengths) * lengths.double())).float()


def constant_weights(lengths: Tensor, *, max_new_tokens: int) -> Tensor:
    """[N] for lengths [N]: sums of responses over a constant, the longest that one may be (Dr. GRPO).

    Liu et al. 2025 (arXiv:2503.20783), section 3.2 and their code's `masked_sum(..., constant_normalizer)`.
    """
    return (lengths.sum() / (len(lengths) * max_new_tokens * torch.ones_like(lengths).double())).float()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x where the mask is true, a scalar; both of one shape.

    Raises:
        ValueError: the mask is empty.
    """
    assert x.shape == mask.shape, f"{tuple(x.shape)} is masked by {tuple(mask.shape)}"
    assert mask.dtype == torch.bool, f"a mask is boolean, not {mask.dtype}"
    if not mask.any():
        raise ValueError("the mean over an empty mask is undefined")
    return torch.where(mask, x, 0.0).sum() / mask.sum()


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool) -> Tensor:
    """x scaled to unit variance over the mask, with mean 0 if `shift_mean` and with its own mean otherwise.

    The implementation detail of Ziegler et al. 2019 (arXiv:1909.08593): advantages lose their mean, rewards keep it.

        whitened = (x - mean) / sqrt(variance + 1e-8) (+ mean, unless shift_mean)

    The variance is that of the population (divided by the count, not by one less). Pass the whole batch: whitened
    microbatch by microbatch, a gradient would depend on the split.

    Args:
        x: any shape.
        mask: the same shape, boolean.
        shift_mean: whether the mean is removed.

    Returns:
        The shape of x, zero outside the mask.

    Raises:
        ValueError: the mask is empty.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask)
    whitened = (x - mean) * torch.rsqrt(variance + _VARIANCE_EPS)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 is a perfect value model, 0 no better than a constant.

    Args:
        values: [B, T].
        returns: [B, T].
        mask: [B, T] boolean.

    Returns:
        A scalar; NaN, for undefined, when the returns do not vary.

    Raises:
        ValueError: the mask is empty.
    """
    residual, spread = _variance(returns - values, mask), _variance(returns, mask)
    return torch.where(spread > 0, 1 - residual / spread, torch.nan)


def _variance(x: Tensor, mask: Tensor) -> Tensor:
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def _centred(scores: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Each score minus the mean of its group, and the size of that group, both [B].

    Scores are first measured from the lowest of the group: equal scores are then exactly 0, where their mean might
    differ from them in the last digit.
    """
    assert scores.ndim == 1, f"scores are [B], not {tuple(scores.shape)}"
    assert scores.shape == group_ids.shape, f"{tuple(scores.shape)} scores, {tuple(group_ids.shape)} group ids"
    same = group_ids[:, None] == group_ids[None, :]  # [B, B]
    size = same.sum(1)
    above = scores - torch.where(same, scores[None, :], torch.inf).amin(1)
    return above - torch.where(same, above[None, :], 0.0).sum(1) / size, size


def _check_per_token(mask: Tensor, *tensors: Tensor) -> None:
    assert mask.dtype == torch.bool, f"a mask is boolean, not {mask.dtype}"
    shapes = [tuple(x.shape) for x in (mask, *tensors)]
    assert mask.ndim == 2, f"per-token tensors are [B, T], not {shapes[0]}"
    assert len(set(shapes)) == 1, f"per-token tensors of different shapes: {shapes}"
