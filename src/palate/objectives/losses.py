"""What one optimizer step minimises: supervised, ranking, policy and value losses. Straight from judgements: `direct`.

Each function returns `(loss, metrics)`: a scalar to differentiate and a dictionary of detached scalars.

**Denominators.** `denominator` is the count over the whole optimizer step (tokens for the supervised, policy and value
losses, groups for rankings). Every microbatch divides its *sum* by it, so that the losses, the gradients
and the metrics of microbatches add up to those of the whole batch, whichever way it was split. Left out, it is the
count of the tensors at hand, which is right only when they are the whole batch. The supervised, policy and value losses
are therefore token means: a long response weighs more than a short one.

**Metrics** obey the same rule and are added over microbatches, with three exceptions that `combine_metrics` knows:
`policy/ratio_max` is a maximum, `sft/perplexity` multiplies, and what is a mean over some of the items alone is a sum
until it is divided by their share (the accuracy and margin of rankings are those of groups with at least one ordered
pair, whose share is `reward/ordered`).

Nothing is repaired or skipped: a non-finite number inside the mask makes the loss non-finite or, where the loss is flat
(a clipped ratio, a preference won by an infinite margin), the metrics. Whatever lies outside the mask, NaN included,
changes neither loss nor gradient. Left out: an entropy bonus, and per-sequence means and constant denominators: a
caller who wants one scales the advantages by the weights in `advantages`. The policy loss has relatives in
`surrogates`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Metrics = dict[str, Tensor]


def sft_loss(logprobs: Tensor, mask: Tensor, *, denominator: float | Tensor | None = None) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood of the response tokens, a mean over tokens, in nats.

        loss = - sum_{b,t} mask[b,t] * log p(tokens[b,t] | tokens[b,:t]) / denominator

    Args:
        logprobs: [B, T], log p(tokens[:, t] | tokens[:, :t]) of the model in training.
        mask: [B, T] boolean, the tokens to learn, the end-of-sequence token among them.
        denominator: response tokens in the whole optimizer step; the mask's own count if left out.

    Returns:
        The loss and `sft/loss`, `sft/perplexity` (its exponential; the product over microbatches).

    Raises:
        ValueError: the mask is empty and no denominator was given.
    """
    _check_shapes(2, logprobs, mask)
    _check_mask(mask)
    loss = -torch.where(mask, logprobs, 0.0).sum() / _token_count(mask, denominator)
    return loss, {"sft/loss": loss.detach(), "sft/perplexity": loss.detach().exp()}


def distillation_loss(kl: Tensor, mask: Tensor, *, denominator: float | Tensor | None = None) -> tuple[Tensor, Metrics]:
    """On-policy distillation: divergence from a teacher at every token of the policy's responses; a mean over tokens.

    Agarwal et al. 2023 (GKD, arXiv:2306.13649), with the reverse divergence, on responses that the policy sampled:

        loss = sum_{b,t} mask[b,t] * kl[b,t] / denominator
        kl[b,t] = sum_v p(v | tokens[b,:t]) * (log p(v | tokens[b,:t]) - log teacher(v | tokens[b,:t]))

    The gradient is that of the divergences with the responses as they are: none flows through their sampling.

    Args:
        kl: [B, T], in nats; the gradient flows through it.
        mask: [B, T] boolean, the response tokens.
        denominator: response tokens in the whole optimizer step; the mask's own count if left out.

    Returns:
        The loss and `distill/loss`.

    Raises:
        ValueError: the mask is empty and no denominator was given.
    """
    _check_shapes(2, kl, mask)
    _check_mask(mask)
    loss = torch.where(mask, kl, 0.0).sum() / _token_count(mask, denominator)
    return loss, {"distill/loss": loss.detach()}


def ranking_loss(
    rewards: Tensor,
    ranks: Tensor,
    group_ids: Tensor,
    *,
    margins: Tensor | None = None,
    weights: Tensor | None = None,
    tie: Literal["half", "skip"] = "half",
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood of rankings under Bradley-Terry, over all pairs of each group, in nats.

    Ouyang et al. 2022 (arXiv:2203.02155), equation 1, with the margin of Llama 2 (arXiv:2307.09288), equation 2:

        loss = sum_g weight_g / C(K_g, 2) * sum_{i better than j in g} -log sigmoid(rewards[i] - rewards[j] - margin_g)
               / denominator

    A tied pair says that either answer was as likely to win: half of each direction, without a margin, which is log 2
    at equal rewards; `tie="half"` counts it. `tie="skip"` leaves tied pairs out and divides a group by the pairs that
    remain, so that a group has the same weight whatever the number of its ties, and none if all its answers tie.
    All pairs of a group must be in one microbatch. A group of one answer has no pair and adds nothing.

    Args:
        rewards: [N], one scalar reward for each answer.
        ranks: [N], 1 is best, equal ranks are ties; compared only within a group.
        group_ids: [N], any numbers in any order; answers with the same number were ranked against each other.
        margins: [N], how far apart the rewards of an ordered pair should be; constant within a group; 0 if left out.
        weights: [N], the weight of the answer's group; constant within a group; 1 if left out.
        tie: whether tied pairs count half in each direction or are skipped.
        denominator: the number of groups in the whole optimizer step (the sum of their weights, if weighted); if left
            out, the sum of the weights of the groups here that have a pair to learn from.

    Returns:
        The loss and `reward/loss`; over the strictly ordered pairs of each group, `reward/accuracy` (equal rewards
        count half) and `reward/margin` (better minus worse, in nats); and `reward/ordered`, the weighted share of
        groups with an ordered pair. Given a denominator, accuracy and margin are sums divided by it, exact once divided
        by the summed `reward/ordered`, as `combine_metrics` does. Without one they are exact as they are and
        `reward/ordered` is 1; all three are NaN when nothing is ordered.

    Raises:
        ValueError: `tie` is unknown, margins or weights differ within a group, or there is no pair and no denominator.
    """
    _check_shapes(1, rewards, ranks, group_ids)
    same = group_ids[:, None] == group_ids[None, :]  # [N, N]
    ordered = same & (ranks[:, None] < ranks[None, :])  # [i, j]: i is better than j
    pairs = ordered.to(rewards.dtype)
    if tie == "half":
        tied = same & (ranks[:, None] == ranks[None, :])
        pairs = pairs + 0.5 * tied.fill_diagonal_(False)
    elif tie != "skip":
        raise ValueError(f"tie must be 'half' or 'skip', not {tie!r}")
    weights = _per_group("weights", torch.ones_like(rewards) if weights is None else weights, same)
    margins = _per_group("margins", torch.zeros_like(rewards) if margins is None else margins, same)

    used = _share_out(weights, pairs, same)
    gaps = torch.where(pairs > 0, rewards[:, None] - rewards[None, :], 0.0)
    losses = -logsigmoid(gaps - margins[:, None] * ordered)
    loss = _weighted_sum(losses, used) / _group_count(used, denominator)
    return loss, {"reward/loss": loss.detach()} | _order_metrics(
        gaps.detach(), _share_out(weights, ordered.to(rewards.dtype), same), denominator
    )


def policy_loss(
    new_logprobs: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """PPO's clipped surrogate, with its sign turned so that it is minimised; a mean over tokens.

    Schulman et al. 2017 (arXiv:1707.06347), equation 7; with a range of its own above 1, so that what is unlikely can
    become likely, Yu et al. 2025 (DAPO, arXiv:2503.14476), equation 10:

        ratio[b,t] = exp(new_logprobs[b,t] - logprobs[b,t])
        near[b,t] = clip(ratio[b,t], 1 - clip_range, 1 + clip_range_high)
        loss = sum_{b,t} mask * max(-advantages * ratio, -advantages * near) / denominator

    At ratio 1 its gradient with respect to `new_logprobs` is `-advantages / denominator`, which is REINFORCE.

    Args:
        new_logprobs: [B, T], of the policy in training; the gradient flows through this argument only.
        logprobs: [B, T], of the behaviour policy when it sampled.
        advantages: [B, T].
        mask: [B, T] boolean, the response tokens.
        clip_range: how far from 1 the ratio is still rewarded for moving.
        clip_range_high: the same above 1; `clip_range` if left out.
        denominator: response tokens in the whole optimizer step; the mask's own count if left out.

    Returns:
        The loss and `policy/loss`; `policy/clip_fraction`, the share of tokens whose clipped term is the larger, which
        hence have no gradient; `policy/approx_kl`, the mean of ratio - 1 - log ratio, an estimate of
        KL(behaviour || policy) in nats; `policy/ratio_mean`; `policy/ratio_max`, over the tokens here (0 if there are
        none) and to be combined by maximum.

    Raises:
        ValueError: the mask is empty and no denominator was given.
    """
    _check_shapes(2, new_logprobs, logprobs, advantages, mask)
    _check_mask(mask)
    _check_detached(logprobs=logprobs, advantages=advantages)
    count = _token_count(mask, denominator)
    log_ratio = torch.where(mask, new_logprobs - logprobs, 0.0)
    advantages = torch.where(mask, advantages, 0.0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(
        1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high)
    )
    loss = torch.maximum(unclipped, clipped).sum() / count
    ratio, log_ratio = ratio.detach(), log_ratio.detach()
    inside = torch.where(mask, ratio, 0.0)
    return loss, {
        "policy/loss": loss.detach(),
        "policy/clip_fraction": (clipped > unclipped).sum() / count,
        "policy/approx_kl": (log_ratio.expm1() - log_ratio).sum() / count,
        "policy/ratio_mean": inside.sum() / count,
        "policy/ratio_max": inside.max() if inside.numel() else inside.sum(),
    }


def value_loss(
    new_values: Tensor,
    values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip_range_value: float | None = None,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Half the squared error of the value model, the larger of clipped and unclipped; a mean over tokens.

    The clipping comes from the code of Schulman et al. 2017 (arXiv:1707.06347), not from the text:

        near[b,t] = clip(new_values[b,t], values[b,t] - clip_range_value, values[b,t] + clip_range_value)
        loss = 1/2 * sum_{b,t} mask * max((new_values - returns)^2, (near - returns)^2) / denominator

    Args:
        new_values: [B, T], of the value model in training; the gradient flows through this argument only.
        values: [B, T], of the value model at sampling, before `tokens[:, t]` is chosen.
        returns: [B, T], the targets.
        mask: [B, T] boolean, the response tokens.
        clip_range_value: how far a value is rewarded for moving from the sampled one; no clipping if left out.
        denominator: response tokens in the whole optimizer step; the mask's own count if left out.

    Returns:
        The loss and `value/loss`; `value/clip_fraction`, the share of tokens whose clipped error is the larger, which
        hence have no gradient; `value/error`, the mean squared error, unclipped and not halved.

    Raises:
        ValueError: the mask is empty and no denominator was given.
    """
    _check_shapes(2, new_values, values, returns, mask)
    _check_mask(mask)
    _check_detached(values=values, returns=returns)
    count = _token_count(mask, denominator)
    error = torch.where(mask, new_values - returns, 0.0).square()
    larger, clip_fraction = error, error.new_zeros(())
    if clip_range_value is not None:
        near = new_values.clamp(values - clip_range_value, values + clip_range_value)
        clipped_error = torch.where(mask, near - returns, 0.0).square()
        larger, clip_fraction = torch.maximum(error, clipped_error), (clipped_error > error).sum() / count
    loss = 0.5 * larger.sum() / count
    return loss, {
        "value/loss": loss.detach(),
        "value/clip_fraction": clip_fraction,
        "value/error": error.detach().sum() / count,
    }


OF_SHARES = {
    "reward/ordered": ("reward/accuracy", "reward/margin"),
    "kto/desirable": ("kto/desirable_reward", "kto/desirable_logprob"),
    "kto/undesirable": ("kto/undesirable_reward", "kto/undesirable_logprob"),
}
"""Shares of the items of a step, and the metrics that are means over these items alone."""


def combine_metrics(parts: Iterable[Metrics]) -> Metrics:
    """The metrics of one optimizer step from those of its microbatches, which all used the step's denominator.

    Sums, but for `policy/ratio_max` (maximum) and `sft/perplexity` (product). The metrics of `OF_SHARES` are divided by
    the summed share, which is used up by that; where it is zero they are undefined and left out.
    """
    join = {"policy/ratio_max": torch.maximum, "sft/perplexity": torch.mul}
    total: Metrics = {}
    for part in parts:
        for name, value in part.items():
            total[name] = join.get(name, torch.add)(total[name], value) if name in total else value
    for of_share, names in OF_SHARES.items():
        if (share := total.pop(of_share, None)) is not None:
            means = {name: total.pop(name) / share for name in names}
            total |= means if share > 0 else {}
    return total


def _order_metrics(gaps: Tensor, weights: Tensor, denominator: float | Tensor | None) -> Metrics:
    """Accuracy and margin over ordered pairs: `gaps` and `weights` [N, N], non-zero weight where i is better than j."""
    count = weights.sum() if denominator is None else denominator
    return {
        "reward/accuracy": _weighted_sum(_wins(gaps), weights) / count,
        "reward/margin": _weighted_sum(gaps, weights) / count,
        "reward/ordered": weights.sum() / count,
    }


def _wins(margin: Tensor) -> Tensor:
    """1 for a positive margin, 0 for a negative one, one half for none, NaN for NaN."""
    return 0.5 + 0.5 * margin.detach().sign()


def _share_out(weights: Tensor, pairs: Tensor, same: Tensor) -> Tensor:
    """The weight of each group divided among its pairs: [N, N], summing to the weights of the groups that have one."""
    in_group = torch.where(same, pairs.sum(1)[None, :], 0.0).sum(1)  # [N]: how many pairs the group of each answer has
    return weights[:, None] * pairs / in_group.clamp(min=1)[:, None]


def _weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Sum of x * weights that never looks at an x of weight zero, whatever is there."""
    return torch.where(weights != 0, x * weights, 0.0).sum()


def _group_count(used: Tensor, denominator: float | Tensor | None) -> float | Tensor:
    if denominator is not None:
        return denominator
    count = used.sum()
    if not count:
        raise ValueError("no group has a pair to learn from: pass rankings of two answers or more, not all tied")
    return count


def _token_count(mask: Tensor, denominator: float | Tensor | None) -> float | Tensor:
    if denominator is not None:
        return denominator
    count = mask.sum()
    if not count:
        raise ValueError("the mask selects no token: pass the denominator of the whole optimizer step")
    return count


def _per_group(name: str, x: Tensor, same: Tensor) -> Tensor:
    _check_shapes(1, x, same[0])
    if (same & (x[:, None] != x[None, :])).any():
        raise ValueError(f"{name} must be the same for all answers of a group")
    return x


def _check_shapes(rank: int, *tensors: Tensor) -> None:
    shapes = [tuple(x.shape) for x in tensors]
    assert all(len(shape) == rank and shape == shapes[0] for shape in shapes), (
        f"expected one shape of rank {rank}: {shapes}"
    )


def _check_mask(mask: Tensor) -> None:
    assert mask.dtype == torch.bool, f"a mask is boolean, not {mask.dtype}"


def _check_detached(**tensors: Tensor) -> None:
    for name, x in tensors.items():
        assert not x.requires_grad, f"{name} must not require a gradient: it is data, not a prediction"
