"""Do the prompts of reinforcement lie inside what a reward model learned from, and what of that do they not reach?

Texts are points (`evals/asking/embedding.py`), laid out so that no direction counts more because a model happens to use
it more: on the principal axes of the training prompts, each divided by its spread there.

    distance     of a point: the mean distance to its nearest k training prompts, but for one of the same words
    inside       no further away than 95 of 100 training prompts are from the others of them
    reached      a training prompt with a prompt of reinforcement in its neighbourhood, which ends at its k-th nearest
                 training prompt (coverage: Naeem et al. 2020, arXiv 2002.09797)

With prompts of the same kind as those that were learned from, 95% are inside, and as many are reached as `expected`
says. A reward model is a guess where it has not been: whether it errs more with distance is measured where judgements
are at hand that it did not learn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.errors import DataError
from palate.intervals import Estimate, Floats, ratio_estimate
from palate.randomness import permutation
from palate.words import split_words

AXES, PER_AXIS = 64, 4
"""Most principal axes, and the fewest training prompts for each of them."""
INSIDE = 0.95
REGIONS, PER_REGION = 12, 10
"""Most parts that training prompts are divided into, and the fewest prompts on average in each."""
_ROUNDS = 50
_SAME = 1e-5
"""What rounding may leave of a distance that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The axes on which points are laid out, from N training prompts."""

    mean: Floats
    axes: Floats
    spreads: Floats

    def __call__(self, points: Floats) -> Floats:
        """[P, D] to [P, A]."""
        found: Floats = (points - self.mean) @ self.axes.T / self.spreads
        return found


def frame_of(points: Floats) -> Frame:
    """Of training prompts [N, D].

    Raises:
        DataError: they are too few, or all the same.
    """
    mean = points.mean(0)
    _, sizes, axes = np.linalg.svd(points - mean, full_matrices=False)
    spreads = sizes / max(1, len(points) - 1) ** 0.5
    count = min(AXES, len(points) // PER_AXIS, int((spreads > 1e-6 * max(spreads[0], 1e-12)).sum()))
    if count < 2 or spreads[1] <= 1e-9:
        raise DataError(f"{len(points)} training prompts, or prompts that are all alike, span no space")
    return Frame(mean=mean, axes=axes[:count], spreads=spreads[:count])


def nearest(points: Floats, among: Floats, k: int, *, others: bool = False) -> Floats:
    """[P, k] distances to the nearest, in order.

    Args:
        others: a point in the same place is the same text, and no neighbour.
    """
    found = np.empty((len(points), k))
    squares = (among**2).sum(1)
    for start in range(0, len(points), 512):
        part = points[start : start + 512]
        distances = np.sqrt(np.maximum((part**2).sum(1)[:, None] + squares - 2 * part @ among.T, 0.0))
        if others:
            distances[distances < _SAME] = np.inf
        found[start : start + 512] = np.sort(np.partition(distances, k - 1, axis=1)[:, :k], axis=1)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """P prompts of reinforcement beside N training prompts.

    Attributes:
        distances: [P] to the training prompts.
        own_distances: [N] of training prompts to the others of them.
        edge: the distance at which inside ends.
        reached: [N] training prompts with a prompt near them.
        inside, reached_share: with intervals by prompt.
        expected: share reached by prompts of the same kind, as many.
    """

    distances: Floats
    own_distances: Floats
    edge: float
    reached: NDArray[np.bool_]
    inside: Estimate
    reached_share: Estimate
    expected: float


def covered(train: Floats, prompts: Floats, *, neighbours: int, seed: int) -> Coverage:
    """Of points on the same axes, [N, A] and [P, A].

    Raises:
        DataError: there are no more training prompts than neighbours.
    """
    if len(train) <= neighbours:
        raise DataError(f"{len(train)} training prompts are too few for {neighbours} neighbours")
    own = nearest(train, train, neighbours, others=True)
    distances, own_distances = nearest(prompts, train, neighbours, others=True).mean(1), own.mean(1)
    edge = float(np.quantile(own_distances, INSIDE))
    reached = nearest(train, prompts, 1)[:, 0] <= own[:, -1]
    n, p = len(train), len(prompts)
    missed = np.prod([(n - place) / (n + p - place) for place in range(1, neighbours + 1)])
    return Coverage(
        distances=distances,
        own_distances=own_distances,
        edge=edge,
        reached=reached,
        inside=ratio_estimate(distances <= edge, np.ones(p), seed=seed, share=True),
        reached_share=ratio_estimate(reached, np.ones(n), seed=seed, share=True),
        expected=float(1 - missed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of the training prompts.

    Attributes:
        words: that are common here and rare elsewhere.
        example: the prompt in its middle.
        num_training, num_prompts: of either kind that are nearest to its middle.
        reached: share of its training prompts.
    """

    words: tuple[str, ...]
    example: str
    num_training: int
    num_prompts: int
    reached: float


def regions(
    train: Floats, prompts: Floats, texts: Sequence[str], reached: NDArray[np.bool_], *, seed: int
) -> list[Region]:
    """Training prompts divided by Lloyd's algorithm (1982); those that prompts reach least come first.

    Args:
        texts: [N] of the training prompts.
    """
    count = max(1, min(REGIONS, len(train) // PER_REGION))
    centres = _centres(train, count, seed)
    own, others = (_squared(points, centres).argmin(1) for points in (train, prompts))
    words = [set(split_words(text.lower())) for text in texts]
    everywhere = Counter(word for each in words for word in each)
    found = []
    for number in range(count):
        places = np.flatnonzero(own == number)
        if not len(places):
            continue
        middle = int(places[_squared(train[places], centres[number : number + 1])[:, 0].argmin()])
        here = Counter(word for place in places for word in words[place])
        telling = sorted(here, key=lambda word: (-(here[word] ** 2) / everywhere[word], word))
        found.append(
            Region(
                words=tuple(word for word in telling if len(word) > 3)[:6],
                example=texts[middle],
                num_training=len(places),
                num_prompts=int((others == number).sum()),
                reached=float(reached[places].mean()),
            )
        )
    return sorted(found, key=lambda region: (region.reached, -region.num_training))


def _centres(points: Floats, count: int, seed: int) -> Floats:
    """Each begins as the point that is furthest from those before it; the first is drawn."""
    chosen = [int(permutation(len(points), seed, "coverage")[0])]
    while len(chosen) < count:
        chosen.append(int(_squared(points, points[chosen]).min(1).argmax()))
    centres = points[chosen].copy()
    for _ in range(_ROUNDS):
        own = _squared(points, centres).argmin(1)
        moved = np.stack([points[own == n].mean(0) if (own == n).any() else centres[n] for n in range(count)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres


def _squared(points: Floats, centres: Floats) -> Floats:
    found: Floats = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
    return found
