"""Advantages against a double loop, the identities of shaped rewards, and what the baselines have in common."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.objectives.advantages import (
    explained_variance,
    gae,
    group_relative,
    leave_one_out,
    masked_mean,
    shape_rewards,
    whiten,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def runs(starts: list[int], ends: list[int], width: int) -> torch.Tensor:
    """[B, width] mask with one run of response tokens from start up to, not including, end in each row."""
    position = torch.arange(width)
    return (position >= torch.tensor(starts)[:, None]) & (position < torch.tensor(ends)[:, None])


def gae_by_double_loop(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """The definition: the sum over all later tokens of (gamma * lambda)^l * delta[t + l]."""
    advantages = torch.zeros_like(rewards)
    for b in range(rewards.shape[0]):
        tokens = mask[b].nonzero().flatten().tolist()
        for t in tokens:
            for later in (u for u in tokens if u >= t):
                following = values[b, later + 1] if later + 1 in tokens else 0.0
                delta = rewards[b, later] + gamma * following - values[b, later]
                advantages[b, t] += (gamma * gae_lambda) ** (later - t) * delta
    return advantages


class TestGae:
    def test_literal(self) -> None:
        mask = runs([1], [3], 4)
        rewards, values = torch.tensor([[9.0, 1.0, 2.0, 9.0]]), torch.tensor([[9.0, 0.5, 1.0, 9.0]])
        advantages, returns = gae(rewards, values, mask, gamma=0.9, gae_lambda=0.5)
        # delta_2 = 2 - 1 = 1; delta_1 = 1 + 0.9 * 1 - 0.5 = 1.4; advantage_1 = 1.4 + 0.45 * 1
        torch.testing.assert_close(advantages, torch.tensor([[0.0, 1.85, 1.0, 0.0]]))
        torch.testing.assert_close(returns, torch.tensor([[0.0, 2.35, 2.0, 0.0]]))

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**31), gamma=st.sampled_from([1.0, 0.9]), gae_lambda=st.sampled_from([0.0, 0.95, 1.0]))
    def test_equals_the_double_loop(self, seed: int, gamma: float, gae_lambda: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        rewards, values = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64).unbind()
        mask = runs([0, 2, 5, 3], [6, 4, 6, 3], 6)  # a full row, a middle, one token, none
        advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
        torch.testing.assert_close(advantages, gae_by_double_loop(rewards, values, mask, gamma, gae_lambda))
        torch.testing.assert_close(returns, torch.where(mask, advantages + values, 0.0))
        assert (advantages[~mask] == 0).all()

    def test_extremes_are_monte_carlo_and_one_step(self) -> None:
        rewards, values, mask = torch.randn(2, 5), torch.randn(2, 5), runs([0, 1], [5, 4], 5)
        masked = torch.where(mask, rewards, 0.0)
        to_go = torch.where(mask, masked.flip(1).cumsum(1).flip(1), 0.0)
        torch.testing.assert_close(gae(rewards, values, mask, gamma=1, gae_lambda=1)[1], to_go)
        one_step = gae(rewards, values, mask, gamma=1, gae_lambda=0)[1]
        torch.testing.assert_close(one_step[0, :4], rewards[0, :4] + values[0, 1:])
        torch.testing.assert_close(one_step[1, 3], rewards[1, 3])

    def test_nothing_outside_the_response_leaks_in(self) -> None:
        rewards, values, mask = torch.randn(1, 5), torch.randn(1, 5), runs([1], [4], 5)
        expected = gae(rewards, values, mask, gamma=1, gae_lambda=0.95)
        outside = torch.where(mask, 0.0, math.nan)
        found = gae(rewards + outside, values + outside, mask, gamma=1, gae_lambda=0.95)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    @pytest.mark.parametrize("row", [[True, False, True], [False, True, False, True]])
    def test_hole_is_refused(self, row: list[bool]) -> None:
        mask = torch.tensor([row])
        with pytest.raises(ValueError, match="one contiguous run"):
            gae(torch.zeros(mask.shape), torch.zeros(mask.shape), mask, gamma=1, gae_lambda=1)


class TestShapeRewards:
    def test_literal(self) -> None:
        rewards = shape_rewards(
            torch.tensor([3.0, -1.0]),
            torch.tensor([[-9.0, -1.0, -2.0, -9.0], [-1.0, -9.0, -9.0, -9.0]]),
            torch.tensor([[-7.0, -2.0, -1.5, -7.0], [-1.0, -7.0, -7.0, -7.0]]),
            runs([1, 0], [3, 1], 4),
            kl_coef=0.5,
        )
        torch.testing.assert_close(rewards, torch.tensor([[0.0, -0.5, 3.25, 0.0], [-1.0, 0.0, 0.0, 0.0]]))

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**31), kl_coef=st.floats(0, 2))
    def test_sums_to_score_minus_the_price_of_divergence(self, seed: int, kl_coef: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        logprobs, ref_logprobs = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64).unbind()
        scores, mask = torch.randn(3, generator=generator, dtype=torch.float64), runs([0, 2, 5], [6, 4, 6], 6)
        rewards = shape_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
        divergence = torch.where(mask, logprobs - ref_logprobs, 0.0).sum(1)
        torch.testing.assert_close(rewards.sum(1), scores - kl_coef * divergence)
        assert (rewards[~mask] == 0).all()

    def test_padding_is_never_read(self) -> None:
        mask = runs([1], [3], 4)
        padding = torch.where(mask, 0.0, math.nan)
        rewards = shape_rewards(torch.ones(1), torch.zeros(1, 4) + padding, torch.zeros(1, 4), mask, kl_coef=1.0)
        assert rewards.tolist() == [[0.0, 0.0, 1.0, 0.0]]

    def test_row_without_a_response_is_an_error(self) -> None:
        zeros = torch.zeros(2, 3)
        with pytest.raises(ValueError, match=r"without a response token: \[1\]"):
            shape_rewards(torch.zeros(2), zeros, zeros, runs([0, 1], [2, 1], 3), kl_coef=0.1)


class TestGroups:
    scores = torch.tensor([1.0, 5.0, 2.0, 3.0, 9.0])
    ids = torch.tensor([4, -1, 4, -1, 4])

    def test_leave_one_out_literal(self) -> None:
        expected = torch.tensor([1 - 5.5, 5 - 3.0, 2 - 5.0, 3 - 5.0, 9 - 1.5])
        torch.testing.assert_close(leave_one_out(self.scores, self.ids), expected)

    def test_group_relative_literal(self) -> None:
        centred = torch.tensor([-3.0, 1.0, -2.0, -1.0, 5.0])
        torch.testing.assert_close(group_relative(self.scores, self.ids, scale=False), centred)
        std = torch.tensor([38 / 3, 1.0, 38 / 3, 1.0, 38 / 3]).sqrt()
        torch.testing.assert_close(group_relative(self.scores, self.ids, scale=True), centred / std)

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(groups=st.lists(st.integers(2, 5), min_size=1, max_size=4), seed=st.integers(0, 2**31))
    def test_they_differ_by_n_over_n_minus_one(self, groups: list[int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.tensor(groups)
        order = torch.randperm(int(sizes.sum()), generator=generator)
        ids = torch.arange(len(groups)).repeat_interleave(sizes)[order]
        scores = torch.randn(len(ids), generator=generator, dtype=torch.float64)
        n = sizes[ids]
        torch.testing.assert_close(leave_one_out(scores, ids), group_relative(scores, ids, scale=False) * n / (n - 1))

    def test_no_spread_is_exactly_no_signal(self) -> None:
        scores, ids = torch.tensor([0.7] * 7 + [5.0]), torch.tensor([0] * 7 + [1])
        assert scores[:7].mean() != scores[0]  # a plain mean would turn rounding into a signal
        for scale in (True, False):
            assert group_relative(scores, ids, scale=scale).tolist() == [0.0] * 8
        assert leave_one_out(scores[:7], ids[:7]).tolist() == [0.0] * 7

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(scale=st.sampled_from([1e-6, 0.3, 1e5]), origin=st.floats(-9, 9), seed=st.integers(0, 2**31))
    def test_in_units_of_its_spread_a_group_has_neither_origin_nor_unit(
        self, scale: float, origin: float, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        scores, ids = torch.randn(8, generator=generator, dtype=torch.float64), torch.arange(8) % 2
        advantages = group_relative(scores, ids, scale=True)
        torch.testing.assert_close(group_relative(scale * (scores + origin), ids, scale=True), advantages)
        for group in range(2):
            assert advantages[ids == group].square().mean() == pytest.approx(1.0)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(terms=st.lists(st.floats(-1, 1), min_size=1, max_size=12), size=st.sampled_from([1e-3, 1.0, 1e4]))
    def test_one_sum_in_several_orders_is_no_signal(self, terms: list[float], size: float) -> None:
        """In fp32, as rewards are; what would be a spread is rounding."""
        rounded = [torch.tensor(size * (3 + abs(term))) for term in terms]
        sums = torch.stack([sum(order, torch.zeros(())) for order in (rounded, rounded[::-1], sorted(rounded))])
        assert group_relative(sums, torch.zeros(3), scale=True).tolist() == [0.0] * 3

    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
    def test_a_small_difference_is_a_signal(self, size: float) -> None:
        """A hundred roundings of the scores, whatever their size."""
        scores = torch.tensor([1.0, 1.0, 1.0 + 100 * torch.finfo(torch.float32).eps]) * size
        for sign in (1, -1):
            advantages = group_relative(sign * scores, torch.zeros(3), scale=True)
            expected = sign * torch.tensor([-1.0, -1.0, 2.0]) / math.sqrt(2)
            torch.testing.assert_close(advantages, expected, rtol=0.02, atol=0.02)

    def test_one_answer_has_no_others(self) -> None:
        with pytest.raises(ValueError, match=r"groups of one: \[8\]"):
            leave_one_out(torch.zeros(3), torch.tensor([8, 2, 2]))

    def test_a_broken_score_stays_in_its_group(self) -> None:
        for broken in (math.nan, math.inf, -math.inf):
            scores, ids = torch.tensor([broken, 1.0, 0.0, 2.0]), torch.tensor([0, 0, 1, 1])
            advantages = group_relative(scores, ids, scale=True)
            assert advantages[:2].isnan().any()
            assert advantages[2:].tolist() == [-1.0, 1.0]


class TestStatistics:
    x = torch.tensor([[1.0, 3.0, math.nan], [5.0, 100.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])

    def test_masked_mean(self) -> None:
        assert masked_mean(self.x, self.mask).item() == 4.0
        with pytest.raises(ValueError, match="empty mask"):
            masked_mean(self.x, torch.zeros_like(self.mask))

    def test_whiten_literal(self) -> None:
        shifted = whiten(self.x, self.mask, shift_mean=True)
        unit = 1 / math.sqrt(5)  # population variance of 1, 3, 5, 7
        torch.testing.assert_close(shifted, torch.tensor([[-3.0, -1.0, 0.0], [1.0, 0.0, 3.0]]) * unit)
        kept = whiten(self.x, self.mask, shift_mean=False)
        torch.testing.assert_close(kept, torch.where(self.mask, shifted + 4.0, 0.0))

    def test_whitened_over_the_batch_and_not_over_a_microbatch(self) -> None:
        x, mask = torch.randn(4, 5), runs([0, 1, 2, 3], [5, 5, 5, 5], 5)
        whole = whiten(x, mask, shift_mean=True)
        assert whole[mask].mean().item() == pytest.approx(0, abs=1e-6)
        assert whole[mask].var(correction=0).item() == pytest.approx(1, rel=1e-5)
        halves = torch.cat([whiten(x[:2], mask[:2], shift_mean=True), whiten(x[2:], mask[2:], shift_mean=True)])
        assert not torch.allclose(whole, halves)

    def test_explained_variance(self) -> None:
        returns = torch.tensor([[1.0, 2.0, 3.0, 50.0]])
        mask = torch.tensor([[True, True, True, False]])

        def explained(values: list[float]) -> float:
            return explained_variance(torch.tensor([values]), returns, mask).item()

        assert explained([2.0, 3.0, 4.0, 0.0]) == 1.0  # a constant offset is not variance
        assert explained([9.0, 9.0, 9.0, 0.0]) == 0.0
        assert explained([3.0, 2.0, 1.0, 0.0]) == pytest.approx(-3.0)
        assert math.isnan(explained_variance(returns, torch.ones(1, 4), mask).item())
