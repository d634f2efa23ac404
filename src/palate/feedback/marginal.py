"""The marginal likelihood of verdicts: qualities integrated out, its gradient and its curvature.

The model stands in ``bradley_terry.py``. Two responses differ in quality by d ~ N(0, 2 spread^2), and the likelihood of
what was said of a pair is an integral over d alone, whatever the number of labelers. Gauss-Hermite quadrature turns it
into a sum over J values of d::

    log p(pair) = log sum_j w_j exp(sum_c log p(verdict_c | d_j))

The gradient is the mean of the verdicts' own gradients under the posterior of d (Fisher's identity), the curvature the
mean of their curvatures less the covariance of their gradients (Louis 1982).

Parameters are one flat vector of D = 3 L + 3 numbers: of each labeler the log skill, bias and log tie, [L] each, then
the common bias, the common log tie and log spread. Where nobody called a tie, its logarithms stay out of everything;
the same holds for the biases where no order is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from palate.feedback.aggregate import Comparisons, Floats

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
_LOG_WEIGHTS = np.log(_NODE_WEIGHTS / _NODE_WEIGHTS.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """Standard deviations of the Gaussian priors, all with mean 0.

    Attributes:
        labeler_bias, labeler_log_tie: of a labeler's own addition to the common number.
    """

    log_skill: float = 0.5
    labeler_bias: float = 0.5
    labeler_log_tie: float = 1.0
    bias: float = 1.0
    log_tie: float = 2.0
    log_spread: float = 1.0

    def precision(self, num_labelers: int) -> Floats:
        """[D] inverse variances."""
        own = np.repeat([self.log_skill, self.labeler_bias, self.labeler_log_tie], num_labelers)
        return np.concatenate([own, [self.bias, self.log_tie, self.log_spread]]) ** -2.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """The flat vector taken apart.

    Attributes:
        skill, bias, tie: [L], the labelers'; ``tie`` is 0 where nobody ever called one.
        spread: of quality.
    """

    skill: Floats
    bias: Floats
    tie: Floats
    spread: float

    @classmethod
    def unpack(cls, flat: Floats, table: Comparisons) -> Parameters:
        """From the vector."""
        log_skill, bias, log_tie = flat[:-3].reshape(3, -1)
        tie = np.exp(log_tie + flat[-2]) * (table.verdict == 0).any()
        return cls(np.exp(log_skill), bias + flat[-3], tie, float(np.exp(flat[-1])))


@dataclass(frozen=True, slots=True)
class _AtNodes:
    """Every verdict at every value of its pair's difference in quality.

    Attributes:
        slope: [C, J], of x in log skill, and in log spread: skill times difference.
        mean: [C, J], P(first) - P(second).
        tie: [C, J], P(tie).
        log_evidence: [N].
        posterior: [N, J], of the difference.
    """

    slope: Floats
    mean: Floats
    tie: Floats
    log_evidence: Floats
    posterior: Floats


def outcome(x: Floats, tie: Floats) -> tuple[Floats, Floats, Floats]:
    """Davidson's model without overflow: P(first) - P(second), P(tie), and log of the sum that divides exp(x / 2)."""
    half = np.exp(-np.abs(x) / 2)
    total = 1 + half**2 + tie * half
    return np.sign(x) * (1 - half**2) / total, tie * half / total, np.abs(x) / 2 + np.log(total)


def marginal_loss(flat: Floats, table: Comparisons, priors: Priors) -> tuple[float, Floats]:
    """Minus the log of marginal likelihood times prior, and its gradient."""
    at = _at_nodes(flat, table)
    share = _share(table)
    posterior = (share[:, None] * at.posterior)[table.pair]
    push, tie_push = _pushes(table, at)
    push, tie_push = push * posterior, tie_push * posterior
    by_skill, by_bias, by_tie = (push * at.slope).sum(axis=1), push.sum(axis=1) * table.lead, tie_push.sum(axis=1)
    num_labelers = len(table.labelers)
    own = [np.bincount(table.labeler, weights=by, minlength=num_labelers) for by in (by_skill, by_bias, by_tie)]
    gradient = np.concatenate([*own, [by_bias.sum(), by_tie.sum(), by_skill.sum()]])
    precision = priors.precision(num_labelers)
    loss = float(flat**2 @ precision) / 2 - float(share @ at.log_evidence)
    return loss, flat * precision - gradient


def marginal_curvature(flat: Floats, table: Comparisons, priors: Priors) -> Floats:
    """[D, D] second derivatives of the loss."""
    at = _at_nodes(flat, table)
    num_labelers, size = len(table.labelers), len(flat)
    own = table.labeler[:, None] + num_labelers * np.arange(3)
    common = np.broadcast_to(3 * num_labelers + np.arange(3), (len(table), 3))
    columns = np.concatenate([own, common], axis=1)  # [C, 6], what a verdict touches
    push, tie_push = _pushes(table, at)
    lead, nothing = np.broadcast_to(table.lead[:, None], push.shape), np.zeros_like(push)
    of_x = np.stack([at.slope, lead, nothing, lead, nothing, at.slope])  # [6, C, J]
    of_tie = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    shared = _share(table)[:, None] * at.posterior  # [N, J]
    posterior = shared[table.pair]

    curved = np.einsum("pcj,qcj,cj->cpq", of_x, of_x, posterior / 4 * (1 - at.tie - at.mean**2))
    mixed = np.einsum("pcj,cj,q->cpq", of_x, posterior / 2 * at.mean * at.tie, of_tie)
    curved -= mixed + mixed.transpose(0, 2, 1)
    curved += (posterior * at.tie * (1 - at.tie)).sum(axis=1)[:, None, None] * np.outer(of_tie, of_tie)
    curved[:, [[0], [5]], [0, 5]] -= (posterior * push * at.slope).sum(axis=1)[
        :, None, None
    ]  # x is exponential in both
    rows = np.repeat(columns, 6, axis=1)
    total = csr_array((curved.ravel(), (rows.ravel(), np.tile(columns, 6).ravel())), shape=(size, size))

    gradients = of_x * push + of_tie[:, None, None] * tie_push  # [6, C, J]
    expected = csr_array((len(table.pairs), size))
    for node, share in enumerate(shared.T):
        data = gradients[:, :, node].T.ravel()
        gradient = csr_array((data, (np.repeat(table.pair, 6), columns.ravel())), shape=expected.shape)
        weighted = gradient.multiply(share[:, None]).tocsr()
        total -= gradient.T @ weighted
        expected += weighted
    squared = expected.T @ expected.multiply(1 / _share(table)[:, None]).tocsr()
    return np.asarray((total + squared).todense()) + np.diag(priors.precision(num_labelers))


def _at_nodes(flat: Floats, table: Comparisons) -> _AtNodes:
    theta = Parameters.unpack(flat, table)
    slope = theta.skill[table.labeler, None] * (np.sqrt(2) * theta.spread * _NODES)
    x = slope + (theta.bias[table.labeler] * table.lead)[:, None]
    mean, tie, log_total = outcome(x, theta.tie[table.labeler, None])
    tied = table.verdict == 0
    constant = np.zeros(len(table))
    constant[tied] = np.log(theta.tie[table.labeler[tied]])
    log_likelihood = table.verdict[:, None] * x / 2 + constant[:, None] - log_total
    starts = np.searchsorted(table.pair, np.arange(len(table.pairs)))
    joint = np.add.reduceat(log_likelihood, starts, axis=0) + _LOG_WEIGHTS
    log_evidence = np.logaddexp.reduce(joint, axis=1)
    return _AtNodes(slope, mean, tie, log_evidence, np.exp(joint - log_evidence[:, None]))


def _pushes(table: Comparisons, at: _AtNodes) -> tuple[Floats, Floats]:
    """[C, J] derivatives of the log-likelihood in x and in log tie."""
    verdict = table.verdict[:, None]
    return (verdict - at.mean) / 2, (verdict == 0) - at.tie


def _share(table: Comparisons) -> Floats:
    """[N] what a pair counts: the mean weight of its verdicts; outside of the integral, lest it be another model's."""
    return np.bincount(table.pair, weights=table.weight) / np.bincount(table.pair)
