"""Preference models against hand-computed numbers and sums over every ranking."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from palate.objectives.losses import ranking_loss
from palate.objectives.preference import bradley_terry_probability, plackett_luce_log_probability


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_bradley_terry_literals() -> None:
    rewards_a, rewards_b = torch.tensor([math.log(3), 0.0, -50.0]), torch.tensor([0.0, 0.0, 50.0])
    torch.testing.assert_close(bradley_terry_probability(rewards_a, rewards_b), torch.tensor([0.75, 0.5, 0.0]))


def test_either_answer_is_preferred() -> None:
    a, b = torch.randn(5, 1), torch.randn(1, 4)
    total = bradley_terry_probability(a, b) + bradley_terry_probability(b, a)
    torch.testing.assert_close(total, torch.ones(5, 4))


def test_ranking_loss_is_its_negative_logarithm() -> None:
    rewards = torch.tensor([0.7, -0.4])
    loss, _ = ranking_loss(rewards, torch.tensor([1, 2]), torch.zeros(2))
    assert loss.item() == pytest.approx(-bradley_terry_probability(*rewards).log().item())


def test_plackett_luce_over_all_rankings() -> None:
    rewards = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    probabilities = plackett_luce_log_probability(rewards[orders]).exp()  # [24]
    assert probabilities.sum().item() == pytest.approx(1)
    first = torch.stack([probabilities[orders[:, 0] == k].sum() for k in range(4)])
    torch.testing.assert_close(first, rewards.softmax(0))
    three_before_one = torch.tensor([row.index(2) < row.index(0) for row in orders.tolist()])
    assert probabilities[three_before_one].sum().item() == pytest.approx(
        bradley_terry_probability(rewards[2], rewards[0]).item()
    )


def test_plackett_luce_of_two_is_bradley_terry() -> None:
    pair = torch.tensor([[0.3, 1.1], [2.0, -3.0]])
    torch.testing.assert_close(
        plackett_luce_log_probability(pair).exp(), bradley_terry_probability(pair[:, 0], pair[:, 1])
    )
