"""The marginal likelihood of verdicts: qualities integrated out, its gradient and its curvature.

The model stands in ``bradley_terry.py``. Two responses differ in quality by d ~ N(0, 2 spread^2), and the likelihood of
what was said of a pair is an integral over d alone, whatever the number of labelers. Gauss-Hermite quadrature turns it
into a sum over J values of d::

    log p(pair) = log sum_j w_j exp(sum_c log p(verdict_c | d_j))

The gradient is the mean of the verdicts' own gradients under the posterior of d (Fisher's identity), the curvature the
mean of their curvatures less the covariance of their gradients (Louis 1982). A pair that was judged within rankings of
K counts 2 / K, outside of the logarithm: inside it would be another model.

Parameters are one flat vector of D = 3 L + 3 numbers: of each labeler the log skill, bias and log tie, [L] each, then
the common bias, the common log tie and log spread. Where nobody called a tie, its logarithms stay out of everything;
the same holds for the biases where no order is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from palate.feedback.statistics.aggregate import Comparisons, Floats, Indices

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
_LOG_WEIGHTS = np.log(_NODE_WEIGHTS / _NODE_WEIGHTS.sum())
_PAIRS = 400  # at a time


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Some of the pairs, n with c verdicts, at every value of the difference in quality.

    Attributes:
        pair: [c], counted from 0.
        share: [n], what each pair counts.
        slope: [c, J], of x in log skill, and in log spread: skill times difference.
        mean, tie: [c, J], P(first) - P(second) and P(tie).
        push, tie_push: [c, J], derivatives of the log-likelihood in x and in log tie.
        log_evidence: [n].
        posterior: [n, J], of the difference.
    """

    pair: Indices
    labeler: Indices
    lead: Floats
    share: Floats
    slope: Floats
    mean: Floats
    tie: Floats
    push: Floats
    tie_push: Floats
    log_evidence: Floats
    posterior: Floats


def outcome(x: Floats, tie: Floats) -> tuple[Floats, Floats, Floats]:
    """Davidson's model without overflow: P(first) - P(second), P(tie), and log of the sum that divides exp(x / 2)."""
    half = np.exp(-np.abs(x) / 2)
    total = 1 + half**2 + tie * half
    return np.sign(x) * (1 - half**2) / total, tie * half / total, np.abs(x) / 2 + np.log(total)


def marginal_loss(flat: Floats, table: Comparisons, priors: Priors) -> tuple[float, Floats]:
    """Minus the log of marginal likelihood times prior, and its gradient."""
    num_labelers, precision = len(table.labelers), priors.precision(len(table.labelers))
    loss, gradient = float(flat**2 @ precision) / 2, flat * precision
    for block in _blocks(flat, table):
        posterior = (block.share[:, None] * block.posterior)[block.pair]
        push = block.push * posterior
        by_skill, by_bias = (push * block.slope).sum(axis=1), push.sum(axis=1) * block.lead
        by_tie = (block.tie_push * posterior).sum(axis=1)
        own = [np.bincount(block.labeler, weights=by, minlength=num_labelers) for by in (by_skill, by_bias, by_tie)]
        gradient -= np.concatenate([*own, [by_bias.sum(), by_tie.sum(), by_skill.sum()]])
        loss -= float(block.share @ block.log_evidence)
    return loss, gradient


def marginal_curvature(flat: Floats, table: Comparisons, priors: Priors) -> Floats:
    """[D, D] second derivatives of the loss."""
    total = csr_array((len(flat), len(flat)))
    for block in _blocks(flat, table):
        total += _curvature(block, len(table.labelers))
    return np.asarray(total.todense()) + np.diag(priors.precision(len(table.labelers)))


def _curvature(block: _Block, num_labelers: int) -> csr_array:
    """[D, D] mean curvature less the covariance of gradients; six parameters bear on a verdict."""
    shape, size = block.push.shape, 3 * num_labelers + 3
    own = block.labeler[:, None] + num_labelers * np.arange(3)
    common = np.broadcast_to(3 * num_labelers + np.arange(3), (shape[0], 3))
    columns = np.concatenate([own, common], axis=1)  # [c, 6]
    lead, nothing = np.broadcast_to(block.lead[:, None], shape), np.zeros(shape)
    of_x = np.stack([block.slope, lead, nothing, lead, nothing, block.slope])  # [6, c, J]
    of_tie = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    shared = block.share[:, None] * block.posterior  # [n, J]
    posterior = shared[block.pair]

    curved = np.einsum("pcj,qcj,cj->cpq", of_x, of_x, posterior / 4 * (1 - block.tie - block.mean**2))
    mixed = np.einsum("pcj,cj,q->cpq", of_x, posterior / 2 * block.mean * block.tie, of_tie)
    curved -= mixed + mixed.transpose(0, 2, 1)
    curved += (posterior * block.tie * (1 - block.tie)).sum(axis=1)[:, None, None] * np.outer(of_tie, of_tie)
    bent = (posterior * block.push * block.slope).sum(axis=1)[:, None, None]  # x is exponential in log skill and spread
    curved[:, [[0], [5]], [0, 5]] -= bent
    where = (np.repeat(columns, 6, axis=1).ravel(), np.tile(columns, 6).ravel())
    total = csr_array((curved.ravel(), where), shape=(size, size))

    gradients = of_x * block.push + of_tie[:, None, None] * block.tie_push  # [6, c, J]
    where = (np.repeat(block.pair, 6), columns.ravel())
    expected = csr_array((len(block.share), size))
    for node, share in enumerate(shared.T):
        gradient = csr_array((gradients[:, :, node].T.ravel(), where), shape=expected.shape)
        weighted = gradient.multiply(share[:, None]).tocsr()
        total -= gradient.T @ weighted
        expected += weighted
    return total + expected.T @ expected.multiply(1 / block.share[:, None]).tocsr()


def _blocks(flat: Floats, table: Comparisons) -> Iterator[_Block]:
    """A few hundred pairs at a time, which the processor's cache can hold."""
    theta = Parameters.unpack(flat, table)
    starts = np.searchsorted(table.pair, np.arange(len(table.pairs) + 1))
    for first in range(0, len(table.pairs), _PAIRS):
        bounds = starts[first : first + _PAIRS + 1]
        yield _block(theta, table, slice(bounds[0], bounds[-1]), bounds[:-1] - bounds[0])


def _block(theta: Parameters, table: Comparisons, among: slice, starts: Indices) -> _Block:
    pair = table.pair[among] - table.pair[among.start]
    labeler, lead, verdict = table.labeler[among], table.lead[among], table.verdict[among, None]
    slope = theta.skill[labeler, None] * (np.sqrt(2) * theta.spread * _NODES)
    x = slope + (theta.bias[labeler] * lead)[:, None]
    taste = theta.tie[labeler, None]
    mean, tie, log_total = outcome(x, taste)
    constant = np.log(np.where(verdict == 0, taste, 1.0))
    joint = np.add.reduceat(verdict * x / 2 + constant - log_total, starts, axis=0) + _LOG_WEIGHTS
    log_evidence = np.logaddexp.reduce(joint, axis=1)
    return _Block(
        pair=pair,
        labeler=labeler,
        lead=lead,
        share=np.bincount(pair, weights=table.weight[among]) / np.bincount(pair),
        slope=slope,
        mean=mean,
        tie=tie,
        push=(verdict - mean) / 2,
        tie_push=(verdict == 0) - tie,
        log_evidence=log_evidence,
        posterior=np.exp(joint - log_evidence[:, None]),
    )
