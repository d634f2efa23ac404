"""Did it change? Two models' scores of the same items, in pairs, so that what makes an item hard takes no part.

    right or wrong    McNemar's test (1947), exact: of the items that only one of the models has right, is the share of
                      either more than a coin would give? The interval of the difference is Tango's (1998), by the score
                      test, which keeps its width when hardly any item changed, or none
    any other score   signs of the differences drawn at random (Fisher 1935), 9,999 times; the interval as everywhere,
                      by drawing items again

Many comparisons find something by luck: Holm's correction (1979) makes the chance of finding anything, where nothing
has changed, at most 5% for the whole family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from palate.intervals import Estimate, Floats, ratio_estimate
from palate.randomness import uniforms

DRAWS = 9_999
"""Of signs; the smallest probability that can be had is one in as many and one."""
_Z = 1.959963984540054
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A difference of two models on the same items.

    Attributes:
        difference: after minus before, with its 95% interval, which is not corrected.
        p: how likely as large a difference is if nothing has changed.
        test: in a word or two.
    """

    difference: Estimate
    p: float
    test: str


def paired(before: ArrayLike, after: ArrayLike, per: ArrayLike | None = None, *, seed: int, share: bool) -> Paired:
    """Scores [N] of the same items by two models.

    Args:
        per: [N] what the sums are divided by, such as the bytes of each document; absent: the number of items.
        share: scores lie between 0 and 1.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    assert old.shape == new.shape, "the same items"
    if share and per is None and np.isin(np.concatenate([old, new]), (0.0, 1.0)).all():
        gained, lost = int((new > old).sum()), int((new < old).sum())
        return Paired(difference=tango(gained, lost, len(old)), p=mcnemar(gained, lost), test="McNemar")
    sizes = np.ones(len(old)) if per is None else np.asarray(per, dtype=np.float64)
    least, most = (-1.0, 1.0) if share else (-np.inf, np.inf)
    difference = ratio_estimate(new - old, sizes, seed=seed, least=least, most=most)
    return Paired(difference=difference, p=sign_flips(new - old, seed=seed), test="signs")


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided probability that as uneven a division is a coin's; 1 where nothing changed."""
    changed = gained + lost
    return min(1.0, 2 * float(bdtr(min(gained, lost), changed, 0.5))) if changed else 1.0


def tango(gained: int, lost: int, n: int) -> Estimate:
    """(gained - lost) / n and its 95% interval: every difference that a score test does not reject."""
    if not n:
        return Estimate(None)
    value = (gained - lost) / n
    return Estimate(value, _rejected(gained, lost, n, value, -1.0), _rejected(gained, lost, n, value, 1.0))


def _rejected(gained: int, lost: int, n: int, inside: float, outside: float) -> float:
    """The end of the interval between a difference that is not rejected and the largest there is, by halving."""
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(_score(gained, lost, n, middle)) <= _Z:
            inside = middle
        else:
            outside = middle
    return inside


def _score(gained: int, lost: int, n: int, difference: float) -> float:
    """How many standard errors the data are from a difference; the share that is lost is the likeliest one under it."""
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share_lost = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * share_lost + difference * (1 - difference))
    distance = gained - lost - n * difference
    if variance <= _NOTHING:
        return 0.0 if abs(distance) <= _NOTHING else float(np.copysign(np.inf, distance))
    return float(distance / np.sqrt(variance))


def sign_flips(differences: Floats, *, seed: int) -> float:
    """How often random signs make the sum of the differences as large, either way; 1 where all are zero."""
    moved = differences[np.abs(differences) > _NOTHING]
    if not len(moved):
        return 1.0
    least = abs(float(moved.sum())) * (1 - 1e-9)  # equal ones count, however they are rounded
    rows = max(1, 2_000_000 // len(moved))
    found = 0
    for start in range(0, DRAWS, rows):
        count = min(rows, DRAWS - start)
        signs = np.where(uniforms(count * len(moved), seed, "signs", start) < 0.5, -1.0, 1.0).reshape(count, -1)
        found += int((np.abs(signs @ moved) >= least).sum())
    return (found + 1) / (DRAWS + 1)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Each corrected for the number of all, in their order: below 5%, a finding that luck gives 5% of such families."""
    order = np.argsort(np.asarray(probabilities), kind="stable")
    corrected = [0.0] * len(order)
    largest = 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[place]))
        corrected[place] = largest
    return corrected
