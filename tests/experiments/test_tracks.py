"""What files say as arrays: runs with their costs, and best of n from a pool, by hand."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from palate.experiments.measuring import Point, Pool
from palate.experiments.tracks import track_of_pool, track_of_run
from palate.objectives.divergence import best_of_n_kl_bound


def point(start: float, **more: Any) -> Point:
    """Of two prompts, numbers from ``start`` on."""
    names = ("kl", "judge", "won", "words", "truncated")
    values = {name: (start + place, start + place + 10) for place, name in enumerate(names)}
    return Point(**values | more)


def test_a_run_in_the_order_of_its_steps() -> None:
    points = {4: point(6.0, at_equal_length=(0.4, 0.3, 0.5)), 0: point(-20.0), 2: point(3.0)}
    costs = [{"tokens": 10.0 * step, "seconds": float(step)} for step in range(1, 5)]
    found = track_of_run(7, points, costs)
    assert (found.seed, found.stops) == (7, [0, 2, 4])
    assert found.kl.tolist() == [[-20.0, -10.0], [3.0, 13.0], [6.0, 16.0]]
    assert found.d.tolist() == [0.0, 8.0**0.5, 11.0**0.5]
    assert found.judge.tolist()[1] == [4.0, 14.0]
    assert found.won.tolist()[1] == [5.0, 15.0]
    assert found.words.tolist()[1] == [6.0, 16.0]
    assert found.truncated is not None
    assert found.truncated.tolist()[1] == [7.0, 17.0]
    assert found.tokens is not None
    assert found.tokens.tolist() == [0.0, 20.0, 40.0]  # after so many steps; a start has cost nothing
    assert found.seconds is not None
    assert found.seconds.tolist() == [0.0, 2.0, 4.0]
    assert found.reward is None
    assert [(each.value, each.low, each.high) for each in found.at_equal_length] == [(0.4, 0.3, 0.5)]


def test_what_is_not_known_of_every_stop_is_not_known() -> None:
    points = {0: point(0.0, reward=(1.0, 2.0)), 1: point(1.0, reward=(3.0, 4.0))}
    costs: list[dict[str, Any]] = [{"tokens": None, "seconds": 2.0}]
    found = track_of_run(0, points, costs)
    assert found.tokens is None
    assert found.seconds is not None
    assert found.reward is not None
    assert found.reward.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert track_of_run(0, points | {1: point(1.0)}, costs).reward is None


def test_best_of_n_by_hand_over_every_choice() -> None:
    """Of three responses to two prompts; the second prompt's second and third score the same."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(2, 3)) for name in ("judge", "won", "words")}
    scores = np.array([[0.3, -1.0, 2.0], [0.0, 5.0, 5.0]])
    # one response is certain, and rounding has carried it above that
    logprob = np.array([[-3.0, -40.0, -1.0], [-2.0, 1e-9, -9.0]])
    pool = Pool(**arrays, logprob=logprob, rewards={"mine": scores, "other": -scores})
    found = track_of_pool(3, pool, "mine", 3)
    assert (found.seed, found.stops) == (3, [1, 2, 3])
    assert found.d**2 == pytest.approx([best_of_n_kl_bound(n) for n in (1, 2, 3)])
    for name, values in (*arrays.items(), ("reward", scores)):
        told = found.get(name)
        assert told is not None
        for n in (1, 2, 3):
            by_hand = [
                np.mean([best(row, known, chosen) for chosen in combinations(range(3), n)])
                for row, known in zip(scores, values, strict=True)
            ]
            assert told[n - 1] == pytest.approx(by_hand), (name, n)
    assert np.isfinite(found.kl).all()
    assert found.kl[0] == pytest.approx([0.0, 0.0])
    assert (found.kl[1:] < best_of_n_kl_bound(3) + 1e-9).all()
    assert found.truncated is found.tokens is found.seconds is None
    assert track_of_pool(3, pool, "other", 2).get("judge").shape == (2, 2)  # type: ignore[union-attr]


def best(scores: Any, values: Any, chosen: tuple[int, ...]) -> float:
    """The value of the best of those chosen; of equals the mean."""
    top = max(scores[place] for place in chosen)
    return float(np.mean([values[place] for place in chosen if scores[place] == top]))
