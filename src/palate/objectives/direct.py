"""What a policy learns from judgements directly, without a reward model: DPO and IPO from pairs, KTO from thumbs.

The policy is its own reward model: `beta * (log p(response) - log p_ref(response))` is what it takes a response to be
worth. Log-probabilities are *sums* over the response tokens in all three, as in the papers. Denominators and metrics
obey the rules of `losses`.

Left out: losses that average log-probabilities over the length of the response (some libraries do so in IPO, which
makes it another loss unless all responses have one length), and reference-free variants.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from palate.objectives.losses import Metrics


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Direct preference optimisation; a mean over pairs, in nats.

    Rafailov et al. 2023 (arXiv:2305.18290), equation 7; label smoothing is Mitchell's conservative DPO (2023):

        chosen_reward[b] = beta * (policy_chosen[b] - ref_chosen[b]), and likewise for the rejected response
        margin[b] = chosen_reward[b] - rejected_reward[b]
        loss = sum_b -(1 - label_smoothing) * log sigmoid(margin[b]) - label_smoothing * log sigmoid(-margin[b])
               / denominator

    Args:
        policy_chosen: [B], log-probabilities summed over the response tokens; the gradient flows through this argument
            and the next.
        policy_rejected: [B], likewise.
        ref_chosen: [B], of the reference policy, likewise.
        ref_rejected: [B], likewise.
        beta: the price of a nat of divergence from the reference policy.
        label_smoothing: the probability that a preference was recorded the wrong way round.
        denominator: pairs in the whole optimizer step; B if left out.

    Returns:
        The loss and, as means, `dpo/loss`, `dpo/accuracy` (a positive margin counts one, a zero margin half),
        `dpo/margin`, `dpo/chosen_logprob`, `dpo/rejected_logprob`, `dpo/chosen_reward` and `dpo/rejected_reward`.
    """
    per_pair = _compared(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta)
    margin = per_pair["dpo/margin"]
    losses = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return _mean_of_pairs(losses, per_pair, denominator)


def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Identity preference optimisation; a mean over pairs, in squared nats.

    Azar et al. 2023 (arXiv:2310.12036), equation 17, where beta is called tau:

        gap[b] = (policy_chosen[b] - ref_chosen[b]) - (policy_rejected[b] - ref_rejected[b])
        loss = sum_b (gap[b] - 1 / (2 * beta))^2 / denominator

    A pair has been learned when its margin, beta * gap, is one half; more is as wrong as less. So a preference that
    everybody shares does not pull for ever, as it does in DPO: with y' drawn as the pairs were, the optimum is
    pi_ref(y) * exp(P(y is preferred to y') / beta) / Z.

    Args:
        policy_chosen: [B], log-probabilities *summed* over the response tokens; the gradient flows through this
            argument and the next.
        policy_rejected: [B], likewise.
        ref_chosen: [B], of the reference policy, likewise.
        ref_rejected: [B], likewise.
        beta: the price of a nat of divergence from the reference policy.
        denominator: pairs in the whole optimizer step; B if left out.

    Returns:
        The loss and the metrics of `dpo_loss`, whose `dpo/loss` is then this one.
    """
    per_pair = _compared(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta)
    gap = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    return _mean_of_pairs((gap - 1 / (2 * beta)).square(), per_pair, denominator)


def kto_reference_point(log_ratios: Tensor) -> Tensor:
    """What a response has to be better than: an estimate of KL(policy || reference), a scalar in nats.

    Ethayarajh et al. 2024 (arXiv:2402.01306), section 4.1, from pairs of a prompt and a response to *another* prompt:

        log_ratios[m] = log p(response_m | prompt_m) - log p_ref(response_m | prompt_m)
        reference_point = max(0, sum_m log_ratios[m] / M)

    It is biased, for such responses are not the policy's own; it is the same for every thumb of an optimizer step, and
    no gradient flows through it.

    Args:
        log_ratios: [M], of whole responses, in nats; those of the whole optimizer step.

    Returns:
        A scalar that carries no gradient.

    Raises:
        ValueError: there is no such pair.
    """
    _check_one_shape(log_ratios)
    if not len(log_ratios):
        raise ValueError("no pair of a prompt and a response to another one: nothing to estimate from")
    return log_ratios.detach().mean().clamp(min=0)


def kto_loss(
    policy: Tensor,
    ref: Tensor,
    desirable: Tensor,
    *,
    reference_point: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """Kahneman-Tversky optimisation, from responses that were each liked or not; a mean over responses.

    Ethayarajh et al. 2024 (arXiv:2402.01306), equations 7 and 8, where the weights are called lambda:

        lead[b] = beta * (policy[b] - ref[b] - reference_point)
        loss = sum_b (desirable_weight * (1 - sigmoid(lead[b])) if desirable[b]
                      else undesirable_weight * (1 - sigmoid(-lead[b]))) / denominator

    A response far on its own side of the reference point, or hopelessly far on the other, has next to no gradient.

    Args:
        policy: [B], log-probabilities summed over the response tokens; the gradient flows through this argument only.
        ref: [B], of the reference policy, likewise.
        desirable: [B] boolean, thumb up.
        reference_point: a scalar, that of the whole optimizer step; see `kto_reference_point`.
        beta: the price of a nat of divergence from the reference policy.
        desirable_weight: of a thumb up. The paper wants the sum of the weights of one kind to be 1 to 4/3 times that
            of the other.
        undesirable_weight: of a thumb down.
        denominator: responses in the whole optimizer step; B if left out.

    Returns:
        The loss and, as means, `kto/loss` and `kto/accuracy`, the share of responses on their side of the reference
        point (half of one exactly there); and `kto/desirable_reward`, `kto/undesirable_reward`,
        `kto/desirable_logprob` and `kto/undesirable_logprob`, sums divided by the denominator that `combine_metrics`
        makes means by the shares `kto/desirable` and `kto/undesirable`.
    """
    _check_one_shape(policy, ref, desirable)
    assert desirable.dtype == torch.bool, f"thumbs are boolean, not {desirable.dtype}"
    assert reference_point.ndim == 0, f"one reference point, not {tuple(reference_point.shape)}"
    _check_no_gradient(ref=ref, reference_point=reference_point)
    count = policy.shape[0] if denominator is None else denominator
    log_ratio = policy - ref
    lead = beta * (log_ratio - reference_point)
    better = torch.where(desirable, lead, -lead)
    losses = torch.sigmoid(-better)
    loss = torch.where(desirable, desirable_weight * losses, undesirable_weight * losses).sum() / count
    metrics = {"kto/loss": loss.detach(), "kto/accuracy": _wins(better).sum() / count}
    for kind, of_kind in (("desirable", desirable), ("undesirable", ~desirable)):
        metrics[f"kto/{kind}"] = of_kind.sum() / count
        for name, each in (("reward", beta * log_ratio), ("logprob", policy)):
            metrics[f"kto/{kind}_{name}"] = torch.where(of_kind, each.detach(), 0.0).sum() / count
    return loss, metrics


def _compared(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Metrics:
    """What is measured of each pair, [B] each; margin and rewards carry the gradient."""
    _check_one_shape(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    _check_no_gradient(ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    chosen_reward = beta * (policy_chosen - ref_chosen)
    rejected_reward = beta * (policy_rejected - ref_rejected)
    margin = chosen_reward - rejected_reward
    return {
        "dpo/accuracy": _wins(margin),
        "dpo/margin": margin,
        "dpo/chosen_logprob": policy_chosen,
        "dpo/rejected_logprob": policy_rejected,
        "dpo/chosen_reward": chosen_reward,
        "dpo/rejected_reward": rejected_reward,
    }


def _mean_of_pairs(losses: Tensor, per_pair: Metrics, denominator: float | Tensor | None) -> tuple[Tensor, Metrics]:
    count = losses.shape[0] if denominator is None else denominator
    loss = losses.sum() / count
    return loss, {"dpo/loss": loss.detach()} | {name: x.detach().sum() / count for name, x in per_pair.items()}


def _wins(margin: Tensor) -> Tensor:
    """1 for a positive margin, 0 for a negative one, one half for none, NaN for NaN."""
    return 0.5 + 0.5 * margin.detach().sign()


def _check_one_shape(*tensors: Tensor) -> None:
    shapes = [tuple(x.shape) for x in tensors]
    assert all(len(shape) == 1 and shape == shapes[0] for shape in shapes), f"expected one shape of rank 1: {shapes}"


def _check_no_gradient(**tensors: Tensor) -> None:
    for name, x in tensors.items():
        assert not x.requires_grad, f"{name} must not require a gradient: it is data, not a prediction"
