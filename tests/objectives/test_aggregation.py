"""One score of an ensemble's, by literals and by what each must obey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.objectives.aggregation import ensemble_mean, mean_minus_std, mean_minus_variance, spread, worst_case

SCORES = torch.tensor([[1.0, 3.0, 5.0, 7.0], [-2.0, -2.0, -2.0, -2.0]])  # variance 5 and 0


def test_literals() -> None:
    expected = {
        ensemble_mean: [4.0, -2.0],
        worst_case: [1.0, -2.0],
        spread: [5**0.5, 0.0],
    }
    for function, values in expected.items():
        torch.testing.assert_close(function(SCORES), torch.tensor(values))
    torch.testing.assert_close(mean_minus_std(SCORES, coef=2.0), torch.tensor([4.0 - 2 * 5**0.5, -2.0]))
    torch.testing.assert_close(mean_minus_variance(SCORES, coef=0.5), torch.tensor([4.0 - 2.5, -2.0]))


scores = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=1, max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64)
)


@given(scores, st.floats(-5, 5), st.floats(0.1, 4))
def test_they_move_with_the_scores_and_variance_alone_changes_unit(x: Tensor, shift: float, scale: float) -> None:
    for function in (ensemble_mean, worst_case, lambda x: mean_minus_std(x, coef=1.5)):
        torch.testing.assert_close(function(scale * x + shift), scale * function(x) + shift)
    torch.testing.assert_close(
        mean_minus_variance(scale * x + shift, coef=1.5), scale * x.mean(1) + shift - 1.5 * scale**2 * spread(x) ** 2
    )


@given(scores)
def test_caution_pays_less_than_the_mean_and_no_order_of_members_counts(x: Tensor) -> None:
    for function in (worst_case, lambda x: mean_minus_std(x, coef=0.7), lambda x: mean_minus_variance(x, coef=0.7)):
        assert (function(x) <= ensemble_mean(x) + 1e-9).all()
        torch.testing.assert_close(function(x.flip(1)), function(x))


def test_of_one_member_all_are_its_score() -> None:
    one = SCORES[:, :1]
    for found in (
        ensemble_mean(one),
        worst_case(one),
        mean_minus_std(one, coef=9.0),
        mean_minus_variance(one, coef=9.0),
    ):
        assert torch.equal(found, one[:, 0])
    assert spread(one).tolist() == pytest.approx([0.0, 0.0])
