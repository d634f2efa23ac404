"""What was found of each method, seed by seed: the files of a comparison as arrays, for tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from palate.experiments.measuring import Point, Pool
from palate.experiments.paths import Floats, distance
from palate.intervals import Estimate
from palate.objectives.divergence import best_of_n_kl, best_of_n_kl_bound, best_of_n_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One run, measured at S stops on P prompts; of best of n the stops are n = 1, 2, ...

    Attributes:
        stops: [S] finished steps, or n.
        d: [S] root of the KL; of best of n, of the bound that is analytic.
        kl: [S, P] in nats, estimated.
        won, judge, words: [S, P] as in `Point`.
        reward: [S, P]; None if there is none.
        truncated: [S, P]; None where it is not known.
        tokens, seconds: [S] that it had cost until then; None where that is not known.
        at_equal_length: [S] win rates if responses were as long as the baseline's; none of best of n.
    """

    seed: int
    stops: Sequence[int]
    d: Floats
    kl: Floats
    won: Floats
    judge: Floats
    words: Floats
    reward: Floats | None = None
    truncated: Floats | None = None
    tokens: Floats | None = None
    seconds: Floats | None = None
    at_equal_length: Sequence[Estimate] = ()

    def get(self, name: str) -> Floats | None:
        """One of its arrays."""
        found: Floats | None = getattr(self, name)
        return found


@dataclass(slots=True, kw_only=True)
class Entry:
    """A method and what came of it.

    Attributes:
        trains: best of n does not.
        failed: reasons by seed.
    """

    name: str
    trains: bool = True
    tracks: list[Track] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


def track_of_run(seed: int, points: Mapping[int, Point], costs: Sequence[Mapping[str, Any]]) -> Track:
    """From what was measured after so many steps, and the rows of its costs."""
    stops = sorted(points)
    every = [points[stop] for stop in stops]

    def stacked(name: str) -> Floats:
        return np.array([getattr(point, name) for point in every], dtype=np.float64)

    def cost(name: str) -> Floats | None:
        values = [0.0 if stop == 0 else costs[stop - 1][name] for stop in stops]
        return None if None in values else np.array(values, dtype=np.float64)

    kl = stacked("kl")
    return Track(
        seed=seed,
        stops=stops,
        d=distance(kl.mean(1)),
        kl=kl,
        won=stacked("won"),
        judge=stacked("judge"),
        words=stacked("words"),
        truncated=stacked("truncated"),
        reward=stacked("reward") if all(point.reward for point in every) else None,
        tokens=cost("tokens"),
        seconds=cost("seconds"),
        at_equal_length=[Estimate(*point.at_equal_length) for point in every if point.at_equal_length],
    )


def track_of_pool(seed: int, pool: Pool, reward: str, most: int) -> Track:
    """Best of 1 to ``most`` by a reward, without bias, from one pool of at least as many."""
    scores = pool.rewards[reward]
    stops = list(range(1, most + 1))
    chosen = [best_of_n_weights(torch.from_numpy(scores), n).numpy() for n in stops]

    def expected(values: Floats) -> Floats:
        return np.array([(weights * values).sum(1) for weights in chosen])

    probability = torch.from_numpy(pool.logprob).exp().clamp(max=1.0)  # rounding may carry a certain one above 1
    kl = [(weights * best_of_n_kl(n, probability).numpy()).sum(1) for n, weights in zip(stops, chosen, strict=True)]
    return Track(
        seed=seed,
        stops=stops,
        d=np.sqrt([best_of_n_kl_bound(n) for n in stops]),
        kl=np.array(kl),
        won=expected(pool.won),
        judge=expected(pool.judge),
        words=expected(pool.words),
        reward=expected(scores),
    )
