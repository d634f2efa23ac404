"""Linear rewards on features that are computed once: the Bradley-Terry likelihood with a Gaussian prior.

    minimise  sum_p weight_p (log(1 + exp(x_p w)) - outcome_p x_p w)  +  ridge / 2 |w - anchor|^2

It is convex, and Newton's method is at its minimum in a handful of steps. An ensemble's members differ as those of
`palate reward` with several heads do: each has an anchor of its own in the place of the initial head, and meets the
judgements of a sample of its own, drawn with replacement. Anchors are drawn from the prior, so that members disagree
about what nobody has judged (Pearce et al. 2020, arXiv 1810.05546); with no judgements at all they *are* the prior.

Bradley and Terry 1952; a tie is half a win for either.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from palate.intervals import Floats
from palate.randomness import normals, uniforms

Indices = NDArray[np.int64]

STEPS = 50
"""Of Newton's method, at most; it takes fewer than ten."""


def components(features: Floats, dimensions: int) -> Floats:
    """[F, D] principal directions of features [N, F] of mean 0, each feature first given the spread 1.

    In units of the first one's spread, and in proportion: what varies little among responses has little influence on
    a reward until judgements give it more.
    """
    spread = features.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    _, values, directions = np.linalg.svd(features / scale, full_matrices=False)
    kept = min(dimensions, int((values > values[0] * 1e-6).sum()))
    return np.asarray((directions[:kept] / scale).T * (np.sqrt(len(features)) / values[0]))


def fit(
    x: Floats, outcome: Floats, *, ridge: float, weight: Floats | None = None, anchor: Floats | None = None
) -> Floats:
    """[D] the head that maximises likelihood and prior.

    Args:
        x: [P, D] features of a pair's first response minus those of its second.
        outcome: [P] 1 the first is preferred, 0 the second, one half a tie.
        ridge: inverse variance of the prior.
        weight: [P]; 1 where nothing is said.
        anchor: [D] mean of the prior; 0 where nothing is said.
    """
    weight = np.ones(len(x)) if weight is None else weight
    anchor = np.zeros(x.shape[1]) if anchor is None else anchor

    def loss(head: Floats) -> float:
        margin = x @ head
        return float(
            weight @ (np.logaddexp(0, margin) - outcome * margin) + ridge / 2 * (head - anchor) @ (head - anchor)
        )

    head, lowest = anchor, loss(anchor)
    for _ in range(STEPS):
        probability = expit(x @ head)
        gradient = x.T @ (weight * (probability - outcome)) + ridge * (head - anchor)
        step = np.linalg.solve(information(x, probability, weight, ridge), gradient)
        size = 1.0
        while (found := loss(head - size * step)) > lowest and size > 1e-6:
            size /= 2
        head, gained, lowest = head - size * step, lowest - found, min(found, lowest)
        if gained < 1e-9 * (1 + abs(lowest)):
            break
    return head


def information(x: Floats, probability: Floats, weight: Floats, ridge: float) -> Floats:
    """[D, D] the curvature of the loss: what judgements and prior together tell of each direction."""
    curvature = weight * probability * (1 - probability)
    return np.asarray((x * curvature[:, None]).T @ x + ridge * np.eye(x.shape[1]))


def ensemble(
    x: Floats,
    outcome: Floats,
    judgement: Indices,
    *,
    weight: Floats,
    ridge: float,
    members: int,
    key: tuple[int | str, ...],
) -> Floats:
    """[M, D] heads that differ by their anchors and by the judgements they meet.

    Args:
        judgement: [P] which judgement a pair is of; the pairs of one are drawn together.
        key: what their draws depend on.
    """
    num = int(judgement.max(initial=-1)) + 1
    heads = []
    for member in range(members):
        drawn = (uniforms(num, *key, "bootstrap", member) * num).astype(np.int64)
        times = np.bincount(drawn, minlength=num).astype(np.float64)
        anchor = normals(x.shape[1], *key, "anchor", member) / np.sqrt(ridge)
        heads.append(fit(x, outcome, ridge=ridge, weight=weight * times[judgement], anchor=anchor))
    return np.array(heads)
