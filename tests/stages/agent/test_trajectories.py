"""Advantages over several episodes: an end that is one, and an end that is only a limit of time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.objectives import advantages as language
from palate.stages.agent import trajectories
from palate.stages.agent.trajectories import Trajectories, episode_advantages, finished_returns, pieces


def flags(*places: int, of: int) -> Tensor:
    found = torch.zeros(1, of, dtype=torch.bool)
    found[0, list(places)] = True
    return found


def test_the_recursion_is_the_language_side_s() -> None:
    assert trajectories.gae is language.gae


def test_advantages_by_hand() -> None:
    """An episode that terminates at t = 1; one that is truncated at t = 3; a part of one, cut off by the rollout."""
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
    values = torch.tensor([[0.5, 0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    after = torch.tensor([[0.4, 7.0, 0.2, 8.0, 9.0]], dtype=torch.float64)
    found, returns = episode_advantages(
        rewards, values, after, flags(1, of=5), flags(3, of=5), gamma=0.5, gae_lambda=0.8
    )
    at_1 = 2.0 - 0.4  # nothing comes after it: not 7
    at_0 = 1.0 + 0.5 * 0.4 - 0.5 + 0.4 * at_1
    at_3 = 4.0 + 0.5 * 8.0 - 0.2  # it would have gone on
    at_2 = 3.0 + 0.5 * 0.2 - 0.3 + 0.4 * at_3
    at_4 = 5.0 + 0.5 * 9.0 - 0.1
    expected = torch.tensor([[at_0, at_1, at_2, at_3, at_4]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(returns, expected + values)


def test_an_end_at_the_end_of_the_rollout_is_an_end() -> None:
    one = torch.ones(1, 2, dtype=torch.float64)
    for terminated, expected in ((flags(1, of=2), 0.0), (flags(of=2), 9.0)):
        found, _ = episode_advantages(one, 0 * one, 9 * one, terminated, flags(of=2), gamma=1.0, gae_lambda=1.0)
        assert found.tolist() == [[2.0 + expected, 1.0 + expected]]


def test_a_terminated_step_that_the_limit_cuts_off_as_well_is_an_end() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    found, _ = episode_advantages(one, 0 * one, 9 * one, flags(0, of=1), flags(0, of=1), gamma=1.0, gae_lambda=1.0)
    assert found.tolist() == [[1.0]]


@given(
    ends=st.lists(st.sampled_from(["", "terminated", "truncated"]), min_size=12, max_size=12),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_advantages_against_a_double_loop(ends: list[str], gamma: float, gae_lambda: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, values, after = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    terminated, truncated = (
        torch.tensor([end == kind for end in ends]).view(3, 4) for kind in ("terminated", "truncated")
    )
    found, returns = episode_advantages(
        rewards, values, after, terminated, truncated, gamma=gamma, gae_lambda=gae_lambda
    )
    for n in range(3):
        for t in range(4):
            total, weight = 0.0, 1.0
            for later in range(t, 4):
                over = bool(terminated[n, later] | truncated[n, later]) or later == 3
                next_value = after[n, later] if over else values[n, later + 1]
                delta = rewards[n, later] + gamma * next_value * (not terminated[n, later]) - values[n, later]
                total, weight = total + weight * float(delta), weight * gamma * gae_lambda
                if over:
                    break
            assert float(found[n, t]) == pytest.approx(total, abs=1e-9)
    torch.testing.assert_close(returns, found + values)


def test_pieces_end_with_episodes_and_with_rows() -> None:
    ended = torch.tensor([[False, True, False], [False, False, False], [True, True, True]])
    index, mask = pieces(ended)
    assert [places[there].tolist() for places, there in zip(index, mask, strict=True)] == [
        [0, 1],
        [2],
        [3, 4, 5],
        [6],
        [7],
        [8],
    ]


def rollout(rewards: list[list[float]], terminated: Tensor, truncated: Tensor) -> Trajectories:
    found = torch.tensor(rewards, dtype=torch.float64)
    nothing = torch.zeros(*found.shape, 1)
    return Trajectories(
        observations=nothing,
        after=nothing,
        actions=nothing,
        logprobs=nothing[..., 0],
        rewards=found,
        terminated=terminated,
        truncated=truncated,
    )


def test_an_episode_s_return_is_that_of_all_rollouts_it_lasted() -> None:
    first = rollout([[1.0, 2.0, 4.0]], flags(0, of=3), flags(of=3))
    found, so_far = finished_returns(first, torch.zeros(1, dtype=torch.float64))
    assert (found, so_far.tolist()) == ([1.0], [6.0])
    second = rollout([[8.0, 16.0, 32.0]], flags(of=3), flags(1, of=3))
    found, so_far = finished_returns(second, so_far)
    assert (found, so_far.tolist()) == ([30.0], [32.0])
