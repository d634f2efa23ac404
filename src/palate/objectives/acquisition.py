"""What to ask people next: how much a judgement would teach, by what reward models claim of the responses.

A reward model's margin between two responses is a claim: people prefer the first with probability sigmoid(margin).

    entropy        a coin's: highest where the claim is one half; all that can be had from a single model
    disagreement   variance of the claims of an ensemble's members (Seung et al. 1992, query by committee): where they
                   contradict each other they lack data, while where all say one half the responses may simply be alike
    one by one     the same, given what was picked before: of several items that would settle the same question only the
                   first stays worth asking (the greedy choice of Krause and Guestrin 2005, arXiv 1207.1394)

`one_by_one` is a Bayesian linear regression: a judgement is seen as a claim plus the noise of a coin. It needs no
labels, only which items are asked. With features instead of claims it spreads the items over what the responses are
like (D-optimal design).

Which of them saves labels is measured by `palate choose`. Left out: the chance that labelers will skip an item.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def entropy(raw: ArrayLike) -> float:
    """Mean over pairs of K responses of the entropy of the members' mean claim, in bits; raw [M, K]."""
    mean = (0.5 * (1 + np.tanh(margins(raw) / 2))).mean(1)
    if not len(mean):
        return 0.0
    inside = np.clip(mean, 1e-300, 1 - 1e-16)
    return float(-(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).mean())


def disagreement(raw: ArrayLike) -> float:
    """Mean over pairs of four times the variance of M claims: 1 where half are sure of the one, half of the other."""
    between = margins(raw)
    return float((contradictions(between, len(between)) ** 2).sum())


def uncertainty(raw: ArrayLike) -> float:
    """How much a judgement would teach, from 0 to 1: of one member the entropy, of several their disagreement."""
    return entropy(raw) if len(np.atleast_2d(np.asarray(raw))) == 1 else disagreement(raw)


def uncertainty_one_by_one(raw: Sequence[ArrayLike]) -> list[float]:
    """The same of N items, each given those that are more uncertain: in this order nothing is asked twice.

    The most uncertain item keeps its disagreement, and no value is above what it would be alone. Of a single member
    every item keeps its entropy: one model does not say which of its doubts are the same.

    Args:
        raw: [M, K] of each item, of the same M members; K may differ.
    """
    scores = [np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in raw]
    if not scores or len(scores[0]) == 1:
        return [uncertainty(each) for each in scores]
    rows = [contradictions(margins(each), _pairs(each.shape[1])) for each in scores]
    item = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    gains = one_by_one(np.concatenate(rows), item)
    return [gains.get(place, 0.0) for place in range(len(rows))]


def contradictions(between: Floats, num_pairs: ArrayLike) -> Floats:
    """[P, M] how far each member's claim about a pair is from their mean; an item's sum of squares is its disagreement.

    Args:
        between: [P, M] margins.
        num_pairs: of the item that a pair is of, [P] or for all.
    """
    claims = 0.5 * (1 + np.tanh(between / 2))
    scale = 2 / np.sqrt(between.shape[1] * np.maximum(np.asarray(num_pairs, dtype=np.float64), 1))
    return np.asarray((claims - claims.mean(1, keepdims=True)) * np.reshape(scale, (-1, 1)))


def one_by_one(
    rows: Floats, item: NDArray[np.int64], *, known: Floats | None = None, count: int | None = None
) -> dict[int, float]:
    """Items in the order in which they teach most, each with what it adds to those before it; values never rise.

    Args:
        rows: [R, D]; a judgement of an item tells the products of its rows with an unknown standard normal [D], each
            under noise of variance 1.
        item: [R] which item a row is of.
        known: [D, D] information there is already, the prior's included; the identity where nothing is said.
        count: how many to choose; all of them where nothing is said.
    """
    items, place = np.unique(item, return_inverse=True)
    inverse = np.eye(rows.shape[1]) if known is None else np.linalg.inv(known)
    variance = ((rows @ inverse) * rows).sum(1)
    rows_of = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    chosen: dict[int, float] = {}
    left = np.ones(len(items), dtype=bool)
    for _ in range(len(items) if count is None else min(count, len(items))):
        gains = np.bincount(place, weights=variance)
        pick = int(np.argmax(np.where(left, gains, -np.inf)))
        chosen[int(items[pick])], left[pick] = float(gains[pick]), False
        for row in rows[rows_of[pick]]:
            told = inverse @ row
            noise = 1 + row @ told
            inverse = inverse - np.outer(told, told) / noise
            variance = np.maximum(variance - (rows @ told) ** 2 / noise, 0.0)
    return chosen


def margins(raw: ArrayLike) -> Floats:
    """[P, M] by how much each of M members prefers the first of each pair of K responses; raw [M, K]."""
    scores = np.atleast_2d(np.asarray(raw, dtype=np.float64))
    first, second = np.triu_indices(scores.shape[1], k=1)
    return np.asarray((scores[:, first] - scores[:, second]).T)


def _pairs(num_responses: int) -> int:
    return num_responses * (num_responses - 1) // 2
