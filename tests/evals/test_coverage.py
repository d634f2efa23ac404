"""Inside, reached, parts: on points whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from palate.errors import DataError
from palate.evals.coverage import covered, frame_of, nearest, regions


def cloud(seed: int, count: int, *, middle: float = 0.0, size: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(middle, 1.0, (count, size)) * np.arange(1, size + 1)


def test_distances_are_those_of_the_nearest_in_order() -> None:
    points, others = cloud(0, 700), cloud(1, 90)
    by_hand = np.sort(np.linalg.norm(points[:, None] - others[None], axis=2), axis=1)[:, :3]
    assert np.allclose(nearest(points, others, 3), by_hand)
    assert np.allclose(
        nearest(points, points, 1, others=True)[:, 0],
        np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, 1],
    )


def test_axes_count_alike_whatever_their_size() -> None:
    points = cloud(0, 400)
    frame = frame_of(points)
    assert np.allclose(np.cov(frame(points).T), np.eye(6), atol=1e-8)
    with pytest.raises(DataError, match="span no space"):
        frame_of(np.ones((40, 5)))
    with pytest.raises(DataError, match="span no space"):
        frame_of(points[:5])


def test_prompts_of_the_same_kind_are_inside_and_reach_what_is_expected() -> None:
    """Means over draws; an error of one neighbour more or less would show."""
    inside, reached, expected = [], [], 0.0
    for seed in range(12):
        found = covered(cloud(2 * seed, 300), cloud(2 * seed + 1, 100), neighbours=5, seed=0)
        inside.append(found.inside.value)
        reached.append(found.reached_share.value)
        expected = found.expected
    assert np.mean(inside) == pytest.approx(0.94, abs=0.02)
    assert np.mean(reached) == pytest.approx(expected, abs=0.02)
    assert expected == pytest.approx(1 - np.prod([(300 - i) / (400 - i) for i in range(1, 6)]))


def test_other_prompts_are_outside_and_reach_nothing() -> None:
    train = cloud(0, 300)
    assert np.allclose(
        covered(train, train[:9], neighbours=5, seed=0).distances,
        covered(train, train, neighbours=5, seed=0).own_distances[:9],
    )
    far = covered(train, cloud(1, 50, middle=9.0), neighbours=5, seed=0)
    assert (far.inside.value, far.reached_share.value) == (0.0, 0.0)
    assert far.distances.min() > far.own_distances.max()
    with pytest.raises(DataError, match="5 training prompts are too few for 5 neighbours"):
        covered(train[:5], train, neighbours=5, seed=0)


def test_the_part_that_nobody_asks_about_comes_first() -> None:
    two = [cloud(0, 60), cloud(1, 40, middle=12.0)]
    train, prompts = np.concatenate(two), cloud(2, 80)
    texts = ["what of the mill"] * 60 + ["tell about penguins"] * 40
    found = covered(train, prompts, neighbours=5, seed=0)
    parts = regions(train, prompts, texts, found.reached, seed=0)
    assert parts[0].reached == 0
    assert "penguins" in parts[0].words
    assert sum(part.num_training for part in parts if "penguins" in part.words) == 40
    assert parts[-1].reached > 0.7
    assert sum(part.num_prompts for part in parts) == 80
