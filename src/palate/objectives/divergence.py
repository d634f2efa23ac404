"""How far a policy has moved from its reference: estimators of KL, its price, and what best-of-n costs and gains.

With d[b,t] = logprobs[b,t] - ref_logprobs[b,t] at tokens that the *policy* sampled, k1, k2 and k3 (Schulman,
"Approximating KL divergence", 2020) estimate KL(policy || reference) in nats, token by token; summed over a response
they estimate the divergence of the response. How they are used matters more than which:

    k1 in the reward   the reverse-KL objective: E[k1 * grad log p] = grad KL(policy || reference)
    k1 as a loss       nothing: its expected gradient E[grad log p] is zero
    k2 as a loss       the reverse-KL gradient again
    k3 as a loss       the gradient of the *forward* divergence KL(reference || policy)

Palate puts k1 in the reward and logs k1 and k3. Nothing is clamped: a mean of k1 that stays below zero is a defect of
sampling (truncated sampling, another temperature), and the sign is how one sees it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """d = log p(x) - log ref(x): unbiased for KL(policy || reference), of either sign, in nats; any one shape."""
    _check_shapes(logprobs, ref_logprobs)
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """d^2 / 2: biased for KL(policy || reference) except near zero, never negative, in nats; any one shape."""
    _check_shapes(logprobs, ref_logprobs)
    return 0.5 * (logprobs - ref_logprobs).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased for KL(policy || reference), never negative, in nats; any one shape.

    Unbiased only where the policy gives every token that the reference gives; a single token that the reference finds
    far more likely than the policy can dominate a mean.
    """
    _check_shapes(logprobs, ref_logprobs)
    d = logprobs - ref_logprobs
    return torch.expm1(-d) + d


def updated_kl_coef(kl_coef: float, *, kl: float, target: float, num_sequences: int, horizon: int) -> float:
    """The KL coefficient after a rollout, steered towards a target divergence.

    Ziegler et al. 2019 (arXiv:1909.08593), section 2.2, in the form of their code:

        kl_coef <- kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_sequences / horizon)

    Args:
        kl_coef: the present coefficient.
        kl: the mean divergence of the responses of the rollout, in nats.
        target: the divergence wanted, in nats.
        num_sequences: how many responses the rollout had.
        horizon: the number of responses over which the coefficient may change by a fifth.

    Raises:
        ValueError: `kl` is not finite, `target` is not positive, or one rollout is five horizons or longer, which
            could turn the coefficient negative.
    """
    if not math.isfinite(kl):
        raise ValueError(f"the KL coefficient cannot follow a divergence of {kl}")
    if target <= 0 or num_sequences >= 5 * horizon:
        raise ValueError(
            f"adaptive KL needs target > 0 and a horizon well above the rollout: "
            f"target={target}, horizon={horizon}, num_sequences={num_sequences}"
        )
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_sequences / horizon)


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n: an upper bound, in nats, on KL(best of n || the policy that it samples).

    Stiennon et al. 2020 (arXiv:2009.01325) use it as the value; Beirami et al. 2024 (arXiv:2401.01879) show that it is
    a bound, close when no single response is likely and far off when a few are.
    """
    _check_n(n)
    return math.log(n) - (n - 1) / n


def best_of_n_win_rate_bound(n: int) -> float:
    """n / (n + 1): the most that best of n can win against one fresh sample by the score that picked it, ties half."""
    _check_n(n)
    return n / (n + 1)


def best_of_n_kl(n: int, probability: Tensor) -> Tensor:
    """KL(best of n || the policy that it samples) if the chosen response had this probability; an estimate, in nats.

    A response of probability p that is the best one, beside many of which none is likely, comes out with probability
    q = 1 - (1 - p)^n. Then, exactly,

        KL = q log(q / p) + (1 - p)^n (log n + (n - 1) log(1 - p) - (n - 1) / n)

    which is the bound for p = 0 and 0 for p = 1. Averaged over responses that best of n chose it estimates the
    divergence where the bound is far off: a few responses that are likely (Beirami et al. 2024, arXiv:2401.01879).

    Args:
        n: how many are sampled for the best to be taken.
        probability: [...] under the sampled policy, floating point.
    """
    _check_n(n)
    p = probability.double()
    missed = torch.exp(n * torch.log1p(-p))  # no draw of n is this one
    drawn = -torch.expm1(n * torch.log1p(-p))
    taken = torch.where(p > 0, torch.xlogy(drawn, drawn / p), 0.0)
    rest = best_of_n_kl_bound(n) + (n - 1) * torch.log1p(-p)
    return taken + torch.where(missed > 0, missed * rest, 0.0)


def best_of_n_weights(scores: Tensor, n: int) -> Tensor:
    """How likely each of N samples is to be the best of n drawn from them without replacement; equals share.

    With b samples below a score and e that have it, those e are the best in C(b + e, n) - C(b, n) of C(N, n) subsets.
    Weighted so, whatever is known of the N samples (another reward, a win, a length) has the expectation that it has
    under best of n, without bias (Nakano et al. 2021, arXiv:2112.09332, for the score itself).

    Args:
        scores: [..., N].
        n: how many are sampled for the best to be taken.

    Returns:
        [..., N] fp64, with sum 1.

    Raises:
        ValueError: n is below 1 or above N.
    """
    _check_n(n)
    num_samples = scores.shape[-1]
    if n > num_samples:
        raise ValueError(f"best of {n} cannot be estimated from {num_samples} samples: sample more, or lower n")
    subsets = [math.comb(k, n) / math.comb(num_samples, n) for k in range(num_samples + 1)]
    share = torch.tensor(subsets, dtype=torch.float64, device=scores.device)
    below = (scores[..., None, :] < scores[..., :, None]).sum(-1)
    equal = (scores[..., None, :] == scores[..., :, None]).sum(-1)
    return (share[below + equal] - share[below]) / equal


def best_of_n_score(scores: Tensor, n: int) -> Tensor:
    """The expected score of best of n, from N >= n samples of the same policy, without bias.

    The mean of the maximum over all C(N, n) subsets: see `best_of_n_weights`.

    Args:
        scores: [..., N], floating point.
        n: how many are sampled for the best to be taken.

    Returns:
        [...].

    Raises:
        ValueError: n is below 1 or above N.
    """
    return (best_of_n_weights(scores, n) * scores).sum(-1).to(scores.dtype)


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"best of n needs n >= 1, not {n}")


def _check_shapes(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape, f"log-probabilities of different shapes: {tuple(a.shape)} and {tuple(b.shape)}"
