"""Comparing paths where they are equally far: by hand, and what must hold of every path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.experiments.paths import between, crossing, distance, farthest_common, over_seeds, paired_difference

places = st.lists(st.floats(0, 10), min_size=1, max_size=6)


def test_a_place_between_two_stops_by_hand() -> None:
    place = crossing([0.0, 1.0, 3.0], 2.5)
    assert place == (1, 0.75)
    values = [[0.0, 0.0], [4.0, 8.0], [8.0, 0.0]]
    assert between(values, place).tolist() == [7.0, 2.0]
    assert between(values, (2, 0.0)).tolist() == [8.0, 0.0]


def test_the_first_time_that_a_path_comes_by_counts() -> None:
    assert crossing([0.0, 2.0, 1.0, 5.0], 1.5) == (0, 0.75)
    assert crossing([3.0, 2.0, 4.0], 2.5) == (0, 0.5)  # from above too


def test_beyond_the_ends_nothing_is_said() -> None:
    assert crossing([0.0, 1.0], 1.1) is None
    assert crossing([2.0, 3.0], 1.0) is None
    assert crossing([1.0], 1.0) == (0, 0.0)
    assert crossing([], 1.0) is None


@given(places, st.floats(0, 10))
def test_what_is_read_at_a_place_is_what_was_asked_for(path: list[float], target: float) -> None:
    place = crossing(path, target)
    if place is None:
        assert target < min(path) or target > max(path)
        return
    assert between(path, place) == pytest.approx(target, abs=1e-9)
    stop, share = place
    assert 0 <= share <= 1
    assert all(x < target for x in path[1:stop]) or all(x > target for x in path[1:stop]), "an earlier one was missed"


@given(st.lists(places, min_size=1, max_size=4))
def test_the_farthest_common_place_is_on_every_path_and_the_next_is_not(paths: list[list[float]]) -> None:
    target = farthest_common(paths)
    if target is None:
        nearest_end, latest_start = min(map(max, paths)), max(map(min, paths))
        assert nearest_end == 0 or latest_start > nearest_end
        return
    assert all(crossing(path, target) is not None for path in paths)
    assert any(crossing(path, np.nextafter(target, np.inf)) is None for path in paths)


def test_no_paths_have_no_common_place() -> None:
    assert farthest_common([]) is None


def test_distance_is_the_root_and_noise_below_zero_is_none() -> None:
    assert distance([4.0, 0.0, -0.25]).tolist() == [2.0, 0.0, 0.0]


def test_seeds_are_averaged_prompt_by_prompt() -> None:
    found = over_seeds([np.array([0.0, 1.0]), np.array([0.5, 1.0])], seed=0, share=True)
    assert found is not None
    assert found.by_prompt.tolist() == [0.25, 1.0]
    assert found.estimate.value == 0.625
    assert found.spread == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert found.seeds == 2
    assert over_seeds([], seed=0) is None
    alone = over_seeds([np.array([0.0, 1.0])], seed=0)
    assert alone is not None
    assert alone.spread is None


def test_pairing_takes_out_what_prompts_have_in_common() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 200)
    ours, theirs = hard + 1 + rng.normal(0, 0.1, 200), hard + rng.normal(0, 0.1, 200)
    found = paired_difference(ours, theirs, seed=0)
    assert found.value == pytest.approx(1, abs=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low < 0.1  # unpaired it would be about 2
    assert found.low <= 1 <= found.high
