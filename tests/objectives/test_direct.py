"""DPO, IPO and KTO against hand-computed numbers and finite differences, whichever way a batch is split."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.objectives.test_losses import LOG2, assert_metrics, assert_parts_add_up, softplus, split_rows, tensor

from palate.objectives.direct import dpo_loss, ipo_loss, kto_loss, kto_reference_point
from palate.objectives.losses import combine_metrics

few = settings(max_examples=40, deadline=None, derandomize=True)
NO_POINT = torch.zeros(())


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class TestDpo:
    def test_literal(self) -> None:
        loss, metrics = dpo_loss(
            tensor([-10.0, -8.0]), tensor([-12.0, -5.0]), tensor([-11.0, -8.0]), tensor([-11.0, -8.0]), beta=0.5
        )
        assert loss.item() == pytest.approx((softplus(-1.0) + softplus(1.5)) / 2)
        assert_metrics(
            metrics,
            {
                "dpo/loss": loss.item(),
                "dpo/accuracy": 0.5,
                "dpo/margin": -0.25,
                "dpo/chosen_logprob": -9.0,
                "dpo/rejected_logprob": -8.5,
                "dpo/chosen_reward": 0.25,
                "dpo/rejected_reward": 0.5,
            },
        )

    def test_at_the_reference_it_is_log_two_and_half_right(self) -> None:
        chosen, rejected = -torch.rand(5), -torch.rand(5)
        loss, metrics = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1, label_smoothing=0.3)
        assert loss.item() == pytest.approx(LOG2)
        assert metrics["dpo/accuracy"] == 0.5

    def test_gradient(self) -> None:
        chosen, rejected = tensor([-1.0]).requires_grad_(), tensor([-2.0]).requires_grad_()
        loss, _ = dpo_loss(chosen, rejected, tensor([-1.5]), tensor([-1.0]), beta=2.0, label_smoothing=0.1)
        up, down = torch.autograd.grad(loss, (chosen, rejected))
        sigmoid = 1 / (1 + math.exp(-3.0))  # margin 2 * (0.5 + 1.0)
        assert up.item() == pytest.approx(2.0 * (sigmoid - 0.9))
        assert down.item() == pytest.approx(-up.item())

    def test_reference_is_data(self) -> None:
        x, grad = torch.zeros(1), torch.zeros(1, requires_grad=True)
        with pytest.raises(AssertionError, match="ref_chosen must not require"):
            dpo_loss(grad, grad, grad, x, beta=0.1)
        with pytest.raises(AssertionError, match="ref_rejected must not require"):
            dpo_loss(grad, grad, x, grad, beta=0.1)


class TestIpo:
    def test_literal(self) -> None:
        """Gaps of 2 and -3 nats; at beta 0.5 both should be 1."""
        loss, metrics = ipo_loss(
            tensor([-10.0, -8.0]), tensor([-12.0, -5.0]), tensor([-11.0, -8.0]), tensor([-11.0, -8.0]), beta=0.5
        )
        assert loss.item() == pytest.approx((1.0 + 16.0) / 2)
        assert_metrics(
            metrics,
            {
                "dpo/loss": 8.5,
                "dpo/accuracy": 0.5,
                "dpo/margin": -0.25,
                "dpo/chosen_logprob": -9.0,
                "dpo/rejected_logprob": -8.5,
                "dpo/chosen_reward": 0.25,
                "dpo/rejected_reward": 0.5,
            },
        )

    @pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
    def test_a_margin_of_one_half_has_been_learned_and_no_other(self, beta: float) -> None:
        ref = torch.zeros(1, dtype=torch.float64)
        policy = torch.tensor([0.5 / beta], dtype=torch.float64, requires_grad=True)
        loss, metrics = ipo_loss(policy, ref, ref, ref, beta=beta)
        assert loss.item() == pytest.approx(0.0)
        assert metrics["dpo/margin"].item() == pytest.approx(0.5)
        assert torch.autograd.grad(loss, policy)[0].item() == pytest.approx(0.0)
        for off in (-1.0, 1.0):
            assert ipo_loss(policy + off, ref, ref, ref, beta=beta)[0].item() == pytest.approx(1.0)

    def test_at_the_reference_every_pair_costs_the_same(self) -> None:
        chosen, rejected = -torch.rand(5), -torch.rand(5)
        assert ipo_loss(chosen, rejected, chosen, rejected, beta=0.1)[0].item() == pytest.approx(25.0)

    def test_sums_and_not_means_over_tokens(self) -> None:
        """Twice the tokens with the same log-probability each is another pair: twice the gap, for the same target."""
        once, twice = (
            ipo_loss(tensor([-1.0]) * size, tensor([-2.0]) * size, torch.zeros(1), torch.zeros(1), beta=0.5)[0]
            for size in (1, 2)
        )
        assert once.item() == pytest.approx(0.0)
        assert twice.item() == pytest.approx(1.0)

    def test_reference_is_data(self) -> None:
        x, grad = torch.zeros(1), torch.zeros(1, requires_grad=True)
        with pytest.raises(AssertionError, match="ref_chosen must not require"):
            ipo_loss(grad, grad, grad, x, beta=0.1)
        with pytest.raises(AssertionError, match="rank 1"):
            ipo_loss(grad, grad, x, torch.zeros(2), beta=0.1)


class TestKto:
    def test_literal(self) -> None:
        """Two thumbs up and one down, a reference point of 1 nat; log-ratios 2, -1 and 3."""
        loss, metrics = kto_loss(
            tensor([-4.0, -6.0, -2.0]),
            tensor([-6.0, -5.0, -5.0]),
            tensor([True, True, False]),
            reference_point=torch.tensor(1.0),
            beta=0.5,
            desirable_weight=1.5,
            undesirable_weight=0.8,
        )
        expected = (1.5 * (1 - sigmoid(0.5)) + 1.5 * (1 - sigmoid(-1.0)) + 0.8 * (1 - sigmoid(-1.0))) / 3
        assert loss.item() == pytest.approx(expected)
        assert_metrics(
            combine_metrics([metrics]),
            {
                "kto/loss": expected,
                "kto/accuracy": 1 / 3,
                "kto/desirable_reward": 0.25,
                "kto/undesirable_reward": 1.5,
                "kto/desirable_logprob": -5.0,
                "kto/undesirable_logprob": -2.0,
            },
        )

    def test_only_one_kind_of_thumb(self) -> None:
        up = kto_loss(tensor([-1.0]), tensor([-1.0]), tensor([True]), reference_point=NO_POINT, beta=0.1)[1]
        assert combine_metrics([up]).keys() == {
            "kto/loss",
            "kto/accuracy",
            "kto/desirable_reward",
            "kto/desirable_logprob",
        }
        assert up["kto/accuracy"] == 0.5
        assert up["kto/loss"] == 0.5

    def test_gradient(self) -> None:
        """Up for a thumb up, down for a thumb down, weight * beta * sigmoid(1 - sigmoid), nothing through the rest."""
        policy = tensor([-1.0, -1.0]).requires_grad_()
        loss, _ = kto_loss(
            policy,
            tensor([-3.0, -3.0]),
            tensor([True, False]),
            reference_point=torch.tensor(0.5),
            beta=2.0,
            desirable_weight=1.2,
            undesirable_weight=0.7,
        )
        (gradient,) = torch.autograd.grad(loss, policy)
        slope = 2.0 * sigmoid(3.0) * (1 - sigmoid(3.0)) / 2
        torch.testing.assert_close(gradient, tensor([-1.2 * slope, 0.7 * slope]))

    def test_reference_point(self) -> None:
        log_ratios = tensor([2.0, 1.0, 0.5]).requires_grad_()
        point = kto_reference_point(log_ratios)
        assert point.item() == pytest.approx(3.5 / 3)
        assert not point.requires_grad
        assert kto_reference_point(-log_ratios).item() == 0.0
        with pytest.raises(ValueError, match="nothing to estimate from"):
            kto_reference_point(torch.zeros(0))

    def test_what_is_data_has_no_gradient(self) -> None:
        x, grad, up = torch.zeros(1), torch.zeros(1, requires_grad=True), tensor([True])
        with pytest.raises(AssertionError, match="ref must not require"):
            kto_loss(grad, grad, up, reference_point=NO_POINT, beta=0.1)
        with pytest.raises(AssertionError, match="reference_point must not require"):
            kto_loss(grad, x, up, reference_point=grad[0], beta=0.1)
        with pytest.raises(AssertionError, match="boolean"):
            kto_loss(grad, x, x, reference_point=NO_POINT, beta=0.1)


class TestFiniteDifferences:
    """In fp64, at random points and both far from and near to the reference."""

    @pytest.mark.parametrize("scale", [0.1, 5.0])
    @pytest.mark.parametrize("loss", [dpo_loss, ipo_loss])
    def test_of_pairs(self, loss, scale: float) -> None:  # type: ignore[no-untyped-def]
        generator = torch.Generator().manual_seed(1)
        x = scale * torch.randn(4, 6, generator=generator, dtype=torch.float64)
        policy = x[:2].clone().requires_grad_()
        torch.autograd.gradcheck(lambda policy: loss(*policy, x[2], x[3], beta=0.3)[0], policy)

    @pytest.mark.parametrize("scale", [0.1, 5.0])
    def test_of_thumbs(self, scale: float) -> None:
        generator = torch.Generator().manual_seed(1)
        x = scale * torch.randn(2, 6, generator=generator, dtype=torch.float64)
        policy, up = x[0].clone().requires_grad_(), torch.rand(6, generator=generator) < 0.5
        point = torch.tensor(0.4, dtype=torch.float64)
        torch.autograd.gradcheck(
            lambda policy: kto_loss(
                policy, x[1], up, reference_point=point, beta=0.3, desirable_weight=1.3, undesirable_weight=0.6
            )[0],
            policy,
        )


class TestMicrobatches:
    @few
    @given(seed=st.integers(0, 2**31), data=st.data(), loss=st.sampled_from([dpo_loss, ipo_loss]))
    def test_pairs(self, seed: int, data: st.DataObject, loss) -> None:  # type: ignore[no-untyped-def]
        x, refs = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x.requires_grad_()
        parts = [loss(x[i, 0], x[i, 1], refs[i, 0], refs[i, 1], beta=0.7, denominator=6) for i in split_rows(data, 6)]
        assert_parts_add_up(loss(x[:, 0], x[:, 1], refs[:, 0], refs[:, 1], beta=0.7), parts, x)

    @few
    @given(seed=st.integers(0, 2**31), data=st.data())
    def test_thumbs(self, seed: int, data: st.DataObject) -> None:
        generator = torch.Generator().manual_seed(seed)
        x, ref = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        x.requires_grad_()
        up = torch.rand(6, generator=generator) < 0.5

        def part(rows: list[int]):  # type: ignore[no-untyped-def]
            point = torch.tensor(0.3, dtype=torch.float64)
            return kto_loss(x[rows], ref[rows], up[rows], reference_point=point, beta=0.7, denominator=6)

        assert_parts_add_up(part(list(range(6))), [part(rows) for rows in split_rows(data, 6)], x)
