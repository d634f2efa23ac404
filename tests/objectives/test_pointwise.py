"""Ratings and flags against hand-computed numbers, finite differences and every way of splitting a batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palate.objectives.pointwise import (
    flag_loss,
    increasing,
    not_yet_increasing,
    rating_log_probabilities,
    rating_loss,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


THRESHOLDS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)  # of four ratings


class TestThresholds:
    @given(st.lists(st.floats(-20, 20), min_size=2, max_size=6))
    def test_they_rise_whatever_the_numbers(self, raw: list[float]) -> None:
        found = increasing(torch.tensor(raw, dtype=torch.float64))
        assert found[0] == raw[0]
        assert (found.diff() > 0).all()

    def test_literal_and_back(self) -> None:
        raw = torch.tensor([[0.3, 0.0, -2.0]], dtype=torch.float64)
        expected = [0.3, 0.3 + math.log(2), 0.3 + math.log(2) + math.log1p(math.exp(-2))]
        assert increasing(raw)[0].tolist() == pytest.approx(expected)
        torch.testing.assert_close(not_yet_increasing(increasing(raw)), raw)


class TestRatings:
    def test_probabilities_are_differences_of_cumulative_ones(self) -> None:
        score = 0.7
        below = [0.0, *(sigmoid(float(threshold) - score) for threshold in THRESHOLDS), 1.0]
        expected = [math.log(high - low) for low, high in itertools.pairwise(below)]
        found = rating_log_probabilities(torch.tensor([score], dtype=torch.float64), THRESHOLDS)
        assert found[0].tolist() == pytest.approx(expected)
        assert found.exp().sum().item() == pytest.approx(1.0)

    def test_far_away_they_are_finite_and_exact(self) -> None:
        """Where differences of sigmoids are 0: log P(2) = log(e^a - e^b) up to e^a, far above."""
        found = rating_log_probabilities(torch.tensor([60.0], dtype=torch.float64), THRESHOLDS)[0]
        assert found[1].item() == pytest.approx(math.log(math.exp(0.5 - 60) - math.exp(-1.0 - 60)))
        assert found[0].item() == pytest.approx(-61.0)

    def test_literal_loss_weighted(self) -> None:
        scores, ratings = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64)
        weights = torch.tensor([3.0, 1.0], dtype=torch.float64)
        loss, metrics = rating_loss(scores, ratings, THRESHOLDS, weights=weights)
        expected = (-3 * math.log(sigmoid(-1.0)) - math.log(1 - sigmoid(1.0))) / 4
        assert loss.item() == metrics["reward/rating_loss"].item() == pytest.approx(expected)

    def test_a_rating_between_two_points_is_both_in_part(self) -> None:
        scores = torch.tensor([0.4], dtype=torch.float64)
        whole = [rating_loss(scores, torch.tensor([float(r)]).double(), THRESHOLDS)[0].item() for r in (2, 3)]
        between = rating_loss(scores, torch.tensor([2.25], dtype=torch.float64), THRESHOLDS)[0].item()
        assert between == pytest.approx(0.75 * whole[0] + 0.25 * whole[1])

    def test_the_error_is_that_of_the_expected_rating(self) -> None:
        scores, ratings = torch.tensor([0.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)
        p = rating_log_probabilities(scores, THRESHOLDS).exp().numpy()
        expected = (p * [1, 2, 3, 4]).sum(1)
        _, metrics = rating_loss(scores, ratings, THRESHOLDS)
        error = (abs(expected[0] - 1) + abs(expected[1] - 3)) / 2
        assert metrics["reward/rating_error"].item() == pytest.approx(error)

    def test_off_the_scale(self) -> None:
        for rating in (0.5, 4.5):
            with pytest.raises(ValueError, match="from 1 to 4"):
                rating_loss(torch.zeros(1), torch.tensor([rating]), THRESHOLDS.float())

    def test_gradients_are_finite_differences(self) -> None:
        scores = torch.tensor([-3.0, 0.2, 4.0, 1.0], dtype=torch.float64, requires_grad=True)
        raw = torch.tensor([-1.0, 0.4, 1.3], dtype=torch.float64, requires_grad=True)
        ratings = torch.tensor([1.0, 2.0, 4.0, 2.5], dtype=torch.float64)
        weights = torch.tensor([1.0, 2.0, 0.0, 0.5], dtype=torch.float64)

        def loss(scores: Tensor, raw: Tensor) -> Tensor:
            return rating_loss(scores, ratings, increasing(raw), weights=weights, denominator=3.0)[0]

        assert torch.autograd.gradcheck(loss, (scores, raw))

    def test_at_its_minimum_ratings_are_foretold_as_often_as_given(self) -> None:
        """Of thresholds alone, at score 0, the likeliest are the log-odds of the shares: 1/4, 1/4, 1/2."""
        ratings = torch.tensor([1.0, 2.0, 3.0, 3.0], dtype=torch.float64)
        best = torch.tensor([math.log(1 / 3), 0.0], dtype=torch.float64)
        raw = not_yet_increasing(best).requires_grad_()
        rating_loss(torch.zeros(4, dtype=torch.float64), ratings, increasing(raw))[0].backward()
        torch.testing.assert_close(raw.grad, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)

    def test_a_higher_score_foretells_higher_ratings(self) -> None:
        p = rating_log_probabilities(torch.linspace(-6, 6, 50, dtype=torch.float64), THRESHOLDS).exp()
        assert ((p * torch.arange(1, 5)).sum(1).diff() > 0).all()


class TestFlags:
    def test_literal(self) -> None:
        scores, flags = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.25])
        loss, metrics = flag_loss(scores, flags, weights=torch.tensor([2.0, 1.0, 1.0]))
        soft = -0.25 * math.log(sigmoid(2.0)) - 0.75 * math.log(1 - sigmoid(2.0))
        expected = (-2 * math.log(sigmoid(0.5)) - math.log(1 - sigmoid(-1.0)) + soft) / 4
        assert loss.item() == metrics["reward/flag_loss"].item() == pytest.approx(expected)

    def test_gradient_is_the_error_of_the_probability(self) -> None:
        scores, flags = torch.tensor([0.5, -40.0, 40.0], requires_grad=True), torch.tensor([1.0, 0.0, 0.0])
        flag_loss(scores, flags, denominator=2.0)[0].backward()
        torch.testing.assert_close(scores.grad, (scores.detach().sigmoid() - flags) / 2)

    def test_nothing_to_divide_by(self) -> None:
        nothing = torch.zeros(0)
        with pytest.raises(ValueError, match="nothing was judged"):
            flag_loss(nothing, nothing)
        assert flag_loss(nothing, nothing, denominator=3.0)[0] == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_microbatches_add_up(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 7))

    def draw(low: float, high: float) -> Tensor:
        return torch.tensor(data.draw(st.lists(st.floats(low, high), min_size=count, max_size=count))).double()

    ratings, flags, weights = draw(1, 4), draw(0, 1), draw(0, 3)
    cut = data.draw(st.integers(1, count - 1))
    for loss_of, labels in (
        (lambda s, y, w: rating_loss(s, y, THRESHOLDS, weights=w, denominator=5.0), ratings),
        (lambda s, y, w: flag_loss(s, y, weights=w, denominator=5.0), flags),
    ):
        scores = draw(-3, 3).requires_grad_()
        whole, metrics = loss_of(scores, labels, weights)
        parts = [loss_of(scores[rows], labels[rows], weights[rows]) for rows in (slice(cut), slice(cut, None))]
        (gradient,) = torch.autograd.grad(whole, scores, retain_graph=True)
        (added,) = torch.autograd.grad(parts[0][0] + parts[1][0], scores)
        torch.testing.assert_close(added, gradient)
        for name, value in metrics.items():
            torch.testing.assert_close(parts[0][1][name] + parts[1][1][name], value)
