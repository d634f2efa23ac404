"""Losses against hand-computed numbers, and the same gradients for every way of splitting a batch into microbatches."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.objectives.losses import (
    combine_metrics,
    policy_loss,
    ranking_loss,
    sft_loss,
    value_loss,
)

LOG2 = math.log(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def tensor(*rows: object) -> torch.Tensor:
    return torch.tensor(rows[0] if len(rows) == 1 else rows)


def assert_metrics(metrics: dict[str, torch.Tensor], expected: dict[str, float]) -> None:
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5, abs=1e-6), name
        assert not metrics[name].requires_grad


class TestSft:
    def test_literal(self) -> None:
        logprobs = tensor([[-9.0, -1.0, -2.0], [-9.0, -3.0, -9.0]])
        mask = tensor([[False, True, True], [False, True, False]])
        loss, metrics = sft_loss(logprobs, mask)
        assert_metrics(metrics, {"sft/loss": 2.0, "sft/perplexity": math.exp(2.0)})
        assert loss.item() == pytest.approx(2.0)

    def test_denominator_is_the_callers(self) -> None:
        loss, _ = sft_loss(tensor([[-1.0, -2.0]]), tensor([[True, True]]), denominator=12)
        assert loss.item() == pytest.approx(0.25)

    def test_empty_mask(self) -> None:
        logprobs, mask = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)
        with pytest.raises(ValueError, match="selects no token"):
            sft_loss(logprobs, mask)
        assert sft_loss(logprobs, mask, denominator=5)[0].item() == 0.0


class TestRanking:
    def test_pair_literal(self) -> None:
        loss, metrics = ranking_loss(tensor([1.0, 3.0]).requires_grad_(), tensor([2, 1]), tensor([7, 7]))
        assert loss.item() == pytest.approx(softplus(-2.0))
        assert_metrics(
            metrics, {"reward/loss": softplus(-2.0), "reward/accuracy": 1, "reward/margin": 2, "reward/ordered": 1}
        )

    def test_four_candidates_are_the_mean_of_six_pairs(self) -> None:
        rewards, ranks = tensor([0.3, -1.2, 2.0, 0.9]), tensor([2, 4, 1, 3])
        pairs = [
            ranking_loss(rewards[[i, j]], ranks[[i, j]], torch.zeros(2))[0].item() for i, j in combinations(range(4), 2)
        ]
        loss, metrics = ranking_loss(rewards, ranks, torch.zeros(4))
        assert len(pairs) == 6
        assert loss.item() == pytest.approx(sum(pairs) / 6)
        assert metrics["reward/accuracy"].item() == pytest.approx(5 / 6)  # 0.3 < 0.9 is the one mistake

    def test_groups_of_any_size_weigh_the_same(self) -> None:
        rewards, ranks = tensor([1.0, 0.5, 0.1, 2.0, 1.0]), tensor([1, 1, 2, 3, 2])
        ids = tensor([5, -2, 5, 5, -2])
        first = ranking_loss(rewards[[0, 2, 3]], ranks[[0, 2, 3]], torch.zeros(3))[0]
        second = ranking_loss(rewards[[1, 4]], ranks[[1, 4]], torch.zeros(2))[0]
        loss, metrics = ranking_loss(rewards, ranks, ids)
        assert loss.item() == pytest.approx((first + second).item() / 2)
        assert metrics["reward/accuracy"].item() == pytest.approx((1 / 3 + 0) / 2)

    def test_shift_of_each_group_changes_nothing(self) -> None:
        rewards, ranks, ids = torch.randn(6), tensor([1, 2, 3, 1, 1, 2]), tensor([0, 0, 0, 1, 1, 1])
        shifted = rewards + torch.where(ids == 0, 5.0, -3.0)
        torch.testing.assert_close(ranking_loss(shifted, ranks, ids)[0], ranking_loss(rewards, ranks, ids)[0])

    def test_tie_is_log_two_at_equal_rewards_and_lowest_there(self) -> None:
        def tied(gap: float) -> torch.Tensor:
            return ranking_loss(tensor([gap, 0.0]), tensor([1, 1]), torch.zeros(2), margins=torch.ones(2))[0]

        assert tied(0.0).item() == pytest.approx(LOG2)
        assert tied(1.5).item() == pytest.approx(0.5 * softplus(1.5) + 0.5 * softplus(-1.5))
        assert tied(1.5) == tied(-1.5) > tied(0.0)

    def test_skipped_ties_leave_the_mean_of_the_rest(self) -> None:
        rewards, ranks, ids = tensor([2.0, 1.0, 0.0, 4.0, 4.0]), tensor([1, 1, 2, 1, 1]), tensor([0, 0, 0, 1, 1])
        loss, metrics = ranking_loss(rewards, ranks, ids, tie="skip")
        assert loss.item() == pytest.approx((softplus(-2.0) + softplus(-1.0)) / 2)
        half, _ = ranking_loss(rewards, ranks, ids)
        tie = 0.5 * softplus(1.0) + 0.5 * softplus(-1.0)
        assert half.item() == pytest.approx(((softplus(-2.0) + softplus(-1.0) + tie) / 3 + LOG2) / 2)
        assert_metrics(
            metrics, {"reward/loss": loss.item(), "reward/accuracy": 1, "reward/margin": 1.5, "reward/ordered": 1}
        )

    def test_accuracy_ignores_tied_ranks_and_halves_tied_rewards(self) -> None:
        _, metrics = ranking_loss(tensor([1.0, 1.0, 0.0, 9.0, 0.0]), tensor([1, 2, 2, 1, 1]), tensor([0, 0, 0, 1, 1]))
        assert metrics["reward/accuracy"].item() == pytest.approx((0.5 + 1) / 2)
        assert metrics["reward/margin"].item() == pytest.approx(0.5)

    def test_groups_of_ties_are_taken_out_of_combined_accuracy(self) -> None:
        rewards, ranks, ids = tensor([1.0, 0.0, 3.0, 0.0]), tensor([1, 2, 1, 1]), tensor([0, 0, 1, 1])
        parts = [ranking_loss(rewards[i], ranks[i], ids[i], denominator=2)[1] for i in (slice(2), slice(2, 4))]
        assert sum(part["reward/ordered"].item() for part in parts) == pytest.approx(0.5)
        combined = combine_metrics(parts)
        assert "reward/ordered" not in combined
        assert combined["reward/accuracy"].item() == pytest.approx(1.0)
        assert combined["reward/margin"].item() == pytest.approx(1.0)

    def test_what_is_undefined_is_left_out_of_combined_metrics(self) -> None:
        """Nothing but ties: no accuracy, not a NaN that would end a run."""
        for denominator in (None, 1.0):
            told = ranking_loss(tensor([1.0, 0.0]), tensor([1, 1]), tensor([0, 0]), denominator=denominator)[1]
            assert combine_metrics([told]).keys() == {"reward/loss"}

    def test_margin_and_weight(self) -> None:
        loss, _ = ranking_loss(
            tensor([1.0, 0.0, 1.0, 0.0]),
            tensor([1, 2, 2, 1]),
            tensor([0, 0, 1, 1]),
            margins=tensor([0.5, 0.5, 2.0, 2.0]),
            weights=tensor([3.0, 3.0, 1.0, 1.0]),
        )
        assert loss.item() == pytest.approx((3 * softplus(-0.5) + softplus(3.0)) / 4)

    def test_single_answers_add_nothing(self) -> None:
        pair = ranking_loss(tensor([1.0, 0.0]), tensor([1, 2]), tensor([0, 0]))[0]
        assert ranking_loss(tensor([1.0, 0.0, 8.0]), tensor([1, 2, 1]), tensor([0, 0, 1]))[0] == pair

    def test_one_broken_group_does_not_hide_and_does_not_spread(self) -> None:
        rewards = tensor([1.0, 0.0, math.nan, 0.0]).requires_grad_()
        loss, _ = ranking_loss(rewards, tensor([1, 2, 1, 2]), tensor([0, 0, 1, 1]))
        (gradient,) = torch.autograd.grad(loss, rewards)
        assert loss.isnan()
        assert gradient[:2].isfinite().all()

    def test_errors(self) -> None:
        rewards, ranks, ids = torch.zeros(2), tensor([1, 2]), torch.zeros(2)
        with pytest.raises(ValueError, match="'half' or 'skip'"):
            ranking_loss(rewards, ranks, ids, tie="drop")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no group has a pair"):
            ranking_loss(rewards, ranks, tensor([0, 1]))
        with pytest.raises(ValueError, match="no group has a pair"):
            ranking_loss(rewards, tensor([1, 1]), ids, tie="skip")
        with pytest.raises(ValueError, match="weights must be the same"):
            ranking_loss(rewards, ranks, ids, weights=tensor([1.0, 2.0]))
        with pytest.raises(ValueError, match="margins must be the same"):
            ranking_loss(rewards, ranks, ids, margins=tensor([1.0, 2.0]))
        with pytest.raises(AssertionError, match="rank 1"):
            ranking_loss(torch.zeros(2, 1), ranks, ids)

    def test_microbatch_without_a_pair_is_zero(self) -> None:
        rewards = torch.zeros(1, requires_grad=True)
        loss, metrics = ranking_loss(rewards, tensor([1]), tensor([0]), denominator=3)
        loss.backward()
        assert loss.item() == 0.0
        assert all(value.item() == 0.0 for value in metrics.values())


class TestPolicy:
    def test_literal_on_both_sides_of_the_clip(self) -> None:
        ratios = tensor([[1.5, 0.5, 1.6, 0.5, 7.0]])
        advantages = tensor([[2.0, 2.0, -2.0, -2.0, 7.0]])
        mask = tensor([[True, True, True, True, False]])
        new = ratios.log().requires_grad_()
        loss, metrics = policy_loss(new, torch.zeros(1, 5), advantages, mask, clip_range=0.2)
        assert loss.item() == pytest.approx((-2.4 - 1.0 + 3.2 + 1.6) / 4)
        log_ratios = math.log(1.5) + math.log(1.6) + 2 * math.log(0.5)
        assert_metrics(
            metrics,
            {
                "policy/loss": 0.35,
                "policy/clip_fraction": 0.5,
                "policy/approx_kl": (0.1 - log_ratios) / 4,
                "policy/ratio_mean": 4.1 / 4,
                "policy/ratio_max": 1.6,
            },
        )
        (gradient,) = torch.autograd.grad(loss, new)  # -advantage * ratio / 4, and none where the clip holds
        torch.testing.assert_close(gradient, tensor([[0.0, -0.25, 0.8, 0.0, 0.0]]))

    def test_what_is_clipped_is_counted_and_nothing_else(self) -> None:
        """Of five tokens one has moved too far in the direction of its advantage; two the other way, two hardly."""
        new = tensor([[1.5, 1.5, 0.5, 1.1, 1.0]]).log()
        advantages = tensor([[1.0, -1.0, 1.0, 1.0, 1.0]])
        mask = torch.ones(1, 5, dtype=torch.bool)
        _, metrics = policy_loss(new, torch.zeros(1, 5), advantages, mask, clip_range=0.2)
        assert metrics["policy/clip_fraction"].item() == pytest.approx(1 / 5)

    def test_largest_ratio_is_that_of_a_response_token(self) -> None:
        x, mask = torch.zeros(1, 2), tensor([[True, False]])
        _, metrics = policy_loss(x - 1, x, x, mask, clip_range=0.2)
        assert metrics["policy/ratio_max"].item() == pytest.approx(math.exp(-1))
        _, nothing = policy_loss(x, x, x, ~mask & mask, clip_range=0.2, denominator=1)
        assert combine_metrics([metrics, nothing]) == metrics

    @pytest.mark.parametrize("clip_range", [0.2, 0.0])
    def test_at_ratio_one_it_is_reinforce(self, clip_range: float) -> None:
        logprobs, advantages = -torch.rand(3, 4), torch.randn(3, 4)
        mask = torch.rand(3, 4) < 0.7
        new = logprobs.clone().requires_grad_()
        loss, metrics = policy_loss(new, logprobs, advantages, mask, clip_range=clip_range, denominator=10)
        (gradient,) = torch.autograd.grad(loss, new)
        torch.testing.assert_close(gradient, torch.where(mask, -advantages / 10, 0.0))
        assert metrics["policy/clip_fraction"] == 0
        assert metrics["policy/approx_kl"] == 0
        assert metrics["policy/ratio_max"] == 1
        assert metrics["policy/ratio_mean"].item() == pytest.approx(mask.sum().item() / 10)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_non_finite_numbers_show_inside_the_mask_and_not_outside(self, bad: float) -> None:
        new = tensor([[0.0, bad]]).requires_grad_()
        old, advantages = torch.zeros(1, 2), torch.ones(1, 2)
        loss, metrics = policy_loss(new, old, advantages, tensor([[True, True]]), clip_range=0.2)
        assert not (loss.isfinite() and metrics["policy/approx_kl"].isfinite())
        loss, metrics = policy_loss(new, old, advantages, tensor([[True, False]]), clip_range=0.2)
        (gradient,) = torch.autograd.grad(loss, new)
        torch.testing.assert_close(gradient, tensor([[-1.0, 0.0]]))
        assert all(value.isfinite() for value in metrics.values())

    def test_only_the_new_logprobs_are_differentiated(self) -> None:
        x, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
        grad = torch.zeros(1, 1, requires_grad=True)
        with pytest.raises(AssertionError, match="logprobs must not require"):
            policy_loss(grad, grad, x, mask, clip_range=0.2)
        with pytest.raises(AssertionError, match="advantages must not require"):
            policy_loss(grad, x, grad, mask, clip_range=0.2)

    def test_shapes_and_mask_are_asserted(self) -> None:
        x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
        with pytest.raises(AssertionError, match="rank 2"):
            policy_loss(x, x, torch.zeros(2), mask, clip_range=0.2)
        with pytest.raises(AssertionError, match="boolean"):
            policy_loss(x, x, x, mask.float(), clip_range=0.2)


class TestValue:
    def test_literal(self) -> None:
        new, old = tensor([[1.0, 1.0, 0.1, 5.0]]), torch.zeros(1, 4)
        returns, mask = tensor([[2.0, 0.0, 0.3, 0.0]]), tensor([[True, True, True, False]])
        unclipped, metrics = value_loss(new, old, returns, mask)
        assert unclipped.item() == pytest.approx(0.5 * (1.0 + 1.0 + 0.04) / 3)
        assert_metrics(metrics, {"value/loss": unclipped.item(), "value/clip_fraction": 0, "value/error": 2.04 / 3})
        clipped, metrics = value_loss(new, old, returns, mask, clip_range_value=0.2)
        assert clipped.item() == pytest.approx(0.5 * (1.8**2 + 1.0 + 0.04) / 3)  # 1.0 is held at 0.2 from 0
        assert_metrics(metrics, {"value/loss": clipped.item(), "value/clip_fraction": 1 / 3, "value/error": 2.04 / 3})

    def test_what_is_clipped_is_counted_and_nothing_else(self) -> None:
        """Of four values one has moved too far towards its target; two too far away from it, one hardly."""
        new, returns = tensor([[1.0, 1.0, -1.0, 0.1]]), tensor([[2.0, 0.0, 0.0, 0.3]])
        mask = torch.ones(1, 4, dtype=torch.bool)
        _, metrics = value_loss(new, torch.zeros(1, 4), returns, mask, clip_range_value=0.2)
        assert metrics["value/clip_fraction"].item() == pytest.approx(1 / 4)

    def test_gradient_flows_through_the_new_values_and_not_where_clipped(self) -> None:
        new = tensor([[1.0, 1.0, 0.1, math.nan]]).requires_grad_()
        returns, mask = tensor([[2.0, 0.0, 0.3, math.inf]]), tensor([[True, True, True, False]])
        loss, _ = value_loss(new, torch.zeros(1, 4), returns, mask, clip_range_value=0.2)
        (gradient,) = torch.autograd.grad(loss, new)
        torch.testing.assert_close(gradient, tensor([[0.0, 1 / 3, -0.2 / 3, 0.0]]))

    def test_old_values_and_returns_are_data(self) -> None:
        x, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
        grad = torch.zeros(1, 1, requires_grad=True)
        with pytest.raises(AssertionError, match="values must not require"):
            value_loss(grad, grad, x, mask)
        with pytest.raises(AssertionError, match="returns must not require"):
            value_loss(grad, x, grad, mask)


def split_rows(data: st.DataObject, num_rows: int) -> list[list[int]]:
    """A random partition of the rows into microbatches of any sizes."""
    parts = data.draw(st.lists(st.integers(0, 3), min_size=num_rows, max_size=num_rows))
    return [[row for row, part in enumerate(parts) if part == wanted] for wanted in sorted(set(parts))]


def assert_parts_add_up(whole, parts, inputs: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
    """Loss, gradient and combined metrics of `parts` equal those of `whole`: both lists of (loss, metrics)."""
    (loss, metrics), total = whole, sum(part[0] for part in parts)
    torch.testing.assert_close(total, loss)
    (expected,) = torch.autograd.grad(loss, inputs)
    (gradient,) = torch.autograd.grad(total, inputs)
    torch.testing.assert_close(gradient, expected)
    combined, metrics = combine_metrics([part[1] for part in parts]), combine_metrics([metrics])
    assert combined.keys() == metrics.keys()
    for name in metrics:
        torch.testing.assert_close(combined[name], metrics[name], equal_nan=True, msg=name)


seeded = given(seed=st.integers(0, 2**31), data=st.data())
few = settings(max_examples=40, deadline=None, derandomize=True)


def random_batch(seed: int, rows: int = 6, width: int = 5) -> tuple[torch.Tensor, ...]:
    """Four random [rows, width] tensors and a mask that selects one token or more of the first row."""
    generator = torch.Generator().manual_seed(seed)
    tensors = torch.randn(4, rows, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, width, generator=generator) < 0.5
    mask[0, 0] = True
    return (*tensors.unbind(), mask)


class TestMicrobatches:
    @few
    @seeded
    def test_sft(self, seed: int, data: st.DataObject) -> None:
        x, _, _, _, mask = random_batch(seed)
        x.requires_grad_()
        parts = [sft_loss(x[i], mask[i], denominator=mask.sum()) for i in split_rows(data, 6)]
        assert_parts_add_up(sft_loss(x, mask), parts, x)

    @few
    @seeded
    def test_policy(self, seed: int, data: st.DataObject) -> None:
        new, old, advantages, _, mask = random_batch(seed)
        new.requires_grad_()
        parts = [
            policy_loss(new[i], old[i], advantages[i], mask[i], clip_range=0.3, denominator=mask.sum())
            for i in split_rows(data, 6)
        ]
        assert_parts_add_up(policy_loss(new, old, advantages, mask, clip_range=0.3), parts, new)

    @few
    @seeded
    def test_value(self, seed: int, data: st.DataObject) -> None:
        new, old, returns, _, mask = random_batch(seed)
        new.requires_grad_()
        parts = [
            value_loss(new[i], old[i], returns[i], mask[i], clip_range_value=0.3, denominator=mask.sum())
            for i in split_rows(data, 6)
        ]
        assert_parts_add_up(value_loss(new, old, returns, mask, clip_range_value=0.3), parts, new)

    @few
    @seeded
    def test_ranking(self, seed: int, data: st.DataObject) -> None:
        """Groups of one to four answers with ties, split by group; the step's denominator is the number of groups."""
        sizes = torch.tensor(data.draw(st.lists(st.integers(1, 4), min_size=6, max_size=6)))
        sizes[0] = 2
        ids = torch.arange(6).repeat_interleave(sizes)
        ranks = torch.tensor(data.draw(st.lists(st.integers(1, 3), min_size=len(ids), max_size=len(ids))))
        ranks[:2] = torch.tensor([1, 2])  # at least one ordered pair
        tie = data.draw(st.sampled_from(["half", "skip"]))
        rewards = torch.randn(len(ids), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rewards.requires_grad_()

        def part(groups: list[int]):  # type: ignore[no-untyped-def]
            keep = torch.isin(ids, torch.tensor(groups))
            return ranking_loss(rewards[keep], ranks[keep], ids[keep], tie=tie, denominator=6)

        parts = [part(groups) for groups in split_rows(data, 6)]
        assert_parts_add_up(part(list(range(6))), parts, rewards)
