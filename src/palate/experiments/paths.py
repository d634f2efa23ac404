"""The paths that runs took, and comparing them where they are equally far, or have cost as much. Numbers in and out.

A path is what was measured of one run, in the order of its steps: at each stop how far it had gone (d, the root of the
KL, in which rewards are nearly straight at first: Gao et al. 2022, arXiv 2210.10760) or what it had cost, and something
of every prompt. Between two stops it is taken to be straight. Beyond its ends nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.intervals import Estimate, ratio_estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """Something of one method at the same place of all its runs.

    Attributes:
        by_prompt: [P] means over the seeds that got there.
        estimate: their mean over prompts, with its interval by prompt, for these seeds.
        spread: standard deviation of the seeds' means; None of fewer than two.
        seeds: how many got there.
    """

    by_prompt: Floats
    estimate: Estimate
    spread: float | None
    seeds: int


def distance(kl: ArrayLike) -> Floats:
    """d = sqrt(KL); of an estimate below zero, which noise makes near the reference, it is zero."""
    return np.sqrt(np.maximum(np.asarray(kl, dtype=np.float64), 0.0))


def crossing(places: ArrayLike, target: float) -> tuple[int, float] | None:
    """Where a path first comes by ``target``: after which of its stops [S], and what share of the way to the next.

    None if it never does: it began beyond it, or ended before.
    """
    x = np.asarray(places, dtype=np.float64)
    if len(x) and x[0] == target:
        return 0, 0.0
    for stop, (here, there) in enumerate(pairwise(x.tolist())):
        if min(here, there) <= target <= max(here, there):
            return stop, (target - here) / (there - here) if here != there else 0.0
    return None


def between(values: ArrayLike, place: tuple[int, float]) -> Floats:
    """What a path has there, of values [S, ...] at its stops."""
    known, (stop, share) = np.asarray(values, dtype=np.float64), place
    found: Floats = (1 - share) * known[stop] + share * known[stop + 1] if share else known[stop]
    return found


def farthest_common(paths: Sequence[ArrayLike]) -> float | None:
    """The largest place that every path comes by, so that nothing has to be guessed beyond an end; None if none is."""
    if not paths:
        return None
    ends = [float(np.max(path)) for path in paths]
    target = min(ends)
    return target if target > 0 and all(crossing(path, target) is not None for path in paths) else None


def over_seeds(found: Sequence[Floats], *, seed: int, share: bool = False) -> OverSeeds | None:
    """Of what the runs of a method have at one place, [P] each; None if none got there.

    Args:
        seed: of the bootstrap.
        share: it lies between 0 and 1.
    """
    if not found:
        return None
    means = [float(values.mean()) for values in found]
    by_prompt = np.mean(found, axis=0)
    return OverSeeds(
        by_prompt=by_prompt,
        estimate=ratio_estimate(by_prompt, np.ones(len(by_prompt)), seed=seed, share=share),
        spread=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        seeds=len(found),
    )


def paired_difference(ours: Floats, theirs: Floats, *, seed: int) -> Estimate:
    """Mean of ours - theirs, [P] each of the same prompts, with its interval by prompt."""
    return ratio_estimate(ours - theirs, np.ones(len(ours)), seed=seed)
