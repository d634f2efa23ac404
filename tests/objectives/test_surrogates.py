"""Relatives of PPO's surrogate against numbers worked out by hand, finite differences, and every split of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.objectives.advantages import constant_weights, sequence_weights, token_weights
from palate.objectives.losses import combine_metrics, policy_loss
from palate.objectives.surrogates import clipped_weight_loss, kl_loss, sequence_policy_loss

LOSSES: dict[str, Callable[..., Any]] = {
    "token": policy_loss,
    "sequence": sequence_policy_loss,
    "weight": clipped_weight_loss,
}
WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tokens": token_weights,
    "sequences": sequence_weights,
    "constant": partial(constant_weights, max_new_tokens=7),
}


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def test_weights_by_hand() -> None:
    lengths = torch.tensor([1, 3])
    assert token_weights(lengths).tolist() == [1, 1]
    assert sequence_weights(lengths).tolist() == pytest.approx([4 / 2, 4 / 6])
    assert constant_weights(lengths, max_new_tokens=8).tolist() == pytest.approx([4 / 16, 4 / 16])


def test_what_the_weights_make_of_a_mean_over_tokens() -> None:
    """Responses of one and of three tokens that lose 1 and 2, 4, 6: the three means of the papers."""
    lost, mask = tensor([1, 9, 9], [2, 4, 6]), torch.tensor([[True, False, False], [True, True, True]])
    found = {}
    for name, weights in WEIGHTS.items():
        scaled = weights(mask.sum(1))[:, None] * lost
        loss, _ = policy_loss(torch.zeros(2, 3), torch.zeros(2, 3), -scaled, mask, clip_range=0.2, denominator=4)
        found[name] = loss.item()
    assert found == pytest.approx({"tokens": 13 / 4, "sequences": (1 + 12 / 3) / 2, "constant": 13 / (2 * 7)})


class TestAsymmetricClipping:
    def test_literal(self) -> None:
        """Above 1 the higher range holds, below 1 the lower one."""
        new = tensor([1.5, 1.25, 0.5, 0.9]).log().requires_grad_()
        advantages, mask = tensor([2.0, 2.0, -2.0, -2.0]), torch.ones(1, 4, dtype=torch.bool)
        loss, metrics = policy_loss(new, torch.zeros(1, 4), advantages, mask, clip_range=0.2, clip_range_high=0.3)
        assert loss.item() == pytest.approx((-2.6 - 2.5 + 1.6 + 1.8) / 4)
        assert metrics["policy/clip_fraction"].item() == pytest.approx(0.5)
        (gradient,) = torch.autograd.grad(loss, new)
        torch.testing.assert_close(gradient, tensor([0.0, -2.5 / 4, 0.0, 1.8 / 4]))

    def test_left_out_it_is_the_lower_one(self) -> None:
        new, advantages, mask = tensor([0.4, -0.4]), tensor([1.0, -1.0]), torch.ones(1, 2, dtype=torch.bool)
        both = [
            policy_loss(new, torch.zeros(1, 2), advantages, mask, clip_range=0.2, clip_range_high=high)[0]
            for high in (None, 0.2)
        ]
        assert both[0] == both[1]


class TestSequence:
    def test_literal(self) -> None:
        """Ratios 2 and 1/2 make 1, and 2 and 2 make 2, which is held at 1.2."""
        log2 = math.log(2)
        new = tensor([log2, -log2, 7.0], [log2, log2, 7.0]).requires_grad_()
        mask = torch.tensor([[True, True, False], [True, True, False]])
        advantages = tensor([3.0, 3.0, 3.0], [-1.0, -1.0, -1.0])
        loss, metrics = sequence_policy_loss(new, torch.zeros(2, 3), advantages, mask, clip_range=0.2)
        assert loss.item() == pytest.approx((-3.0 * 2 + 2.0 * 2) / 4)  # a bad response that became likelier: unclipped
        assert metrics["policy/ratio_mean"].item() == pytest.approx((1 + 1 + 2 + 2) / 4)
        assert metrics["policy/ratio_max"].item() == pytest.approx(2.0)
        assert metrics["policy/clip_fraction"] == 0
        assert metrics["policy/approx_kl"].item() == pytest.approx((2 * 3 + 0.5 - 4 - 2 * log2) / 4)
        (gradient,) = torch.autograd.grad(loss, new)  # of the ratio 1/l of it goes to each of l tokens
        torch.testing.assert_close(gradient, tensor([-3.0 / 4, -3.0 / 4, 0.0], [2.0 / 4, 2.0 / 4, 0.0]))
        _, metrics = sequence_policy_loss(new, torch.zeros(2, 3), -advantages, mask, clip_range=0.2)
        assert metrics["policy/clip_fraction"].item() == pytest.approx(0.5)

    def test_of_one_token_it_is_the_token_s(self) -> None:
        new, old, advantages = torch.randn(4, 1), torch.randn(4, 1), torch.randn(4, 1)
        mask = torch.ones(4, 1, dtype=torch.bool)
        a, told = sequence_policy_loss(new, old, advantages, mask, clip_range=0.1, clip_range_high=0.3)
        b, other = policy_loss(new, old, advantages, mask, clip_range=0.1, clip_range_high=0.3)
        torch.testing.assert_close(a, b)
        for name in other:
            torch.testing.assert_close(told[name], other[name])


class TestWeight:
    def test_literal(self) -> None:
        """Weights 1.5 and 0.5 held at 1.3 and 0.8; every token learns, a clipped one too."""
        new = tensor([1.5, 0.5, 1.1]).log().requires_grad_()
        advantages, mask = tensor([2.0, -1.0, 4.0]), torch.ones(1, 3, dtype=torch.bool)
        loss, metrics = clipped_weight_loss(
            new, torch.zeros(1, 3), advantages, mask, clip_range=0.2, clip_range_high=0.3
        )
        expected = -(1.3 * 2 * math.log(1.5) - 0.8 * math.log(0.5) + 1.1 * 4 * math.log(1.1)) / 3
        assert loss.item() == pytest.approx(expected)
        assert metrics["policy/loss"].item() == pytest.approx(expected)
        assert metrics["policy/clip_fraction"].item() == pytest.approx(2 / 3)
        assert metrics["policy/ratio_max"].item() == pytest.approx(1.5)
        (gradient,) = torch.autograd.grad(loss, new)
        torch.testing.assert_close(gradient, tensor([-2.6 / 3, 0.8 / 3, -4.4 / 3]))

    def test_from_one_on_nothing_is_clipped_below(self) -> None:
        new, mask = tensor([-20.0]).requires_grad_(), torch.ones(1, 1, dtype=torch.bool)
        loss, metrics = clipped_weight_loss(new, torch.zeros(1, 1), tensor([1.0]), mask, clip_range=1.0)
        (gradient,) = torch.autograd.grad(loss, new)
        assert gradient.item() == pytest.approx(-math.exp(-20))
        assert metrics["policy/clip_fraction"] == 0


class TestKL:
    def test_literal(self) -> None:
        new, ref = tensor([-1.0, -2.0, 5.0]).requires_grad_(), tensor([-1.5, -1.0, 0.0])
        mask, weights = torch.tensor([[True, True, False]]), tensor([3.0])
        loss, metrics = kl_loss(new, ref, mask, weights=weights, denominator=4)
        expected = 3 * ((math.exp(-0.5) - 1 + 0.5) + (math.exp(1.0) - 1 - 1.0)) / 4
        assert loss.item() == pytest.approx(expected)
        assert metrics["policy/kl_loss"].item() == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(loss, new)
        torch.testing.assert_close(gradient, tensor([3 * (1 - math.exp(-0.5)) / 4, 3 * (1 - math.exp(1.0)) / 4, 0.0]))

    def test_left_out_the_denominator_is_the_mask_s(self) -> None:
        new, ref, mask = torch.zeros(1, 2), -torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
        assert kl_loss(new, ref, mask)[0].item() == pytest.approx(math.exp(-1))
        with pytest.raises(ValueError, match="selects no token"):
            kl_loss(new, ref, ~mask)
        with pytest.raises(AssertionError, match="ref_logprobs must not require"):
            kl_loss(new, ref.requires_grad_(), mask)


def losses(
    new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, name: str, count: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    if name == "kl":
        return kl_loss(new, old, mask, weights=advantages[:, :1], denominator=count)
    return LOSSES[name](new, old, advantages, mask, clip_range=0.1, clip_range_high=0.25, denominator=count)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [*LOSSES, "kl"])
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_microbatches_add_up_and_what_is_outside_the_mask_changes_nothing(
    name: str, seed: int, batch: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    new, old, advantages = torch.randn(3, batch, width, generator=generator, dtype=torch.float64) * 0.3
    mask = torch.rand(batch, width, generator=generator) < 0.7
    new.requires_grad_()
    count = max(1, int(mask.sum()))
    whole, metrics = losses(new, old, advantages, mask, name, count)
    (gradient,) = torch.autograd.grad(whole, new)

    parts = [losses(new[[b]], old[[b]], advantages[[b]], mask[[b]], name, count) for b in range(batch)]
    (added,) = torch.autograd.grad(torch.stack([loss for loss, _ in parts]).sum(), new)
    torch.testing.assert_close(added, gradient)
    combined = combine_metrics([told for _, told in parts])
    for key, value in metrics.items():
        torch.testing.assert_close(combined[key], value, msg=key)

    garbage = torch.where(mask, new.detach(), torch.nan).requires_grad_()
    if name == "kl":
        loss, _ = losses(garbage, torch.where(mask, old, torch.inf), advantages, mask, name, count)
    else:
        loss, _ = losses(
            garbage, torch.where(mask, old, torch.inf), torch.where(mask, advantages, torch.nan), mask, name, count
        )
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(torch.autograd.grad(loss, garbage)[0], gradient)


@pytest.mark.parametrize("name", ["token", "sequence", "kl"])
@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_gradients_are_the_slopes(name: str, seed: int) -> None:
    """Of everything but CISPO, whose weights are data: its loss is not what its gradient climbs."""
    generator = torch.Generator().manual_seed(seed)
    new, old, advantages = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64) * 0.3
    mask = torch.tensor([[True, True, True], [False, True, True]])
    assert torch.autograd.gradcheck(
        lambda x: losses(x, old, advantages, mask, name, 5.0)[0], (new.requires_grad_(),), eps=1e-7, atol=1e-4
    )


@pytest.mark.parametrize("name", LOSSES)
def test_at_ratio_one_all_of_them_are_reinforce(name: str) -> None:
    old, mask = -torch.rand(3, 4), torch.rand(3, 4) < 0.8
    advantages = torch.randn(3, 1).expand(3, 4)
    new = old.clone().requires_grad_()
    loss, metrics = losses(new, old, advantages, mask, name, 10)
    (gradient,) = torch.autograd.grad(loss, new)
    torch.testing.assert_close(gradient, torch.where(mask, -advantages / 10, 0.0))
    assert metrics["policy/ratio_max"] == 1
    assert metrics["policy/clip_fraction"] == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_numbers_show(name: str, bad: float) -> None:
    new = tensor([0.0, bad]).requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss, metrics = losses(new, torch.zeros(1, 2), torch.ones(1, 2), mask, name, 2)
    assert not (loss.isfinite() and metrics["policy/approx_kl"].isfinite())
