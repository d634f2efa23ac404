"""The reward of a clip is learned by the loss of rankings of responses, and found where one was planted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from palate.evals.calibration import accuracy
from palate.lm.optim import Optimizer
from palate.objectives import losses
from palate.recipe import RewardNetworks
from palate.simulated.clip_teachers import SKIP, answers, at_random, perfect
from palate.stages import teaching
from palate.stages.agent import reward_networks
from palate.stages.agent.clip_questions import RANKS, Answers
from palate.stages.agent.clips import Comparisons, Pairs
from palate.stages.agent.reward_networks import (
    RewardEnsemble,
    comparison_loss,
    fit,
    judged,
    stacked_inputs,
    times_met,
)

PLANTED = torch.tensor([1.0, -2.0, 0.5])


def test_the_loss_is_the_same_function_as_for_responses() -> None:
    assert reward_networks.ranking_loss is losses.ranking_loss is teaching.ranking_loss


def drawn(count: int, seed: int) -> Pairs:
    """Clips of five steps whose reward is linear in two observations and one action."""
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(count, 2, 5, 2, generator=generator)
    actions = torch.rand(count, 2, 5, 1, generator=generator) * 2 - 1
    rewards = stacked_inputs(observations, actions) @ PLANTED
    return Pairs(observations=observations, actions=actions, rewards=rewards.double())


def answered(pairs: Pairs, probabilities: Tensor, seed: int = 5) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    verdicts = answers(probabilities, torch.rand(len(pairs), generator=generator, dtype=torch.float64))
    assert (verdicts != SKIP).all()
    return Answers(rows=torch.arange(len(pairs)), ranks=RANKS[verdicts], weights=torch.ones(len(pairs)))


def taught(pairs: Pairs, said: Answers, *, updates: int = 300) -> tuple[RewardEnsemble, dict[str, float]]:
    settings = RewardNetworks(updates=updates)
    ensemble = RewardEnsemble(3, members=3, width=32, layers=1, seed=0)
    optimizer = Optimizer(ensemble, settings.optimizer, settings.updates, name="reward")
    comparisons = Comparisons(2, 1, 5)
    comparisons.add(pairs, said.rows, said.ranks, said.weights, torch.zeros(len(pairs)))
    told = fit(
        ensemble,
        optimizer,
        stacked_inputs(pairs.observations, pairs.actions),
        comparisons,
        updates=settings.updates,
        batch_size=64,
        bootstrap=True,
        seed=0,
        step=0,
    )
    return ensemble, told


def test_a_planted_reward_is_recovered_from_comparisons_of_clips() -> None:
    pairs, unseen = drawn(400, 0), drawn(500, 1)
    ensemble, told = taught(pairs, answered(pairs, perfect(pairs.rewards[:, 0], pairs.rewards[:, 1])))
    assert told["reward/accuracy"] > 0.95
    with torch.no_grad():
        found = ensemble(stacked_inputs(unseen.observations, unseen.actions)).mean(-1)
    assert float(torch.corrcoef(torch.stack([found.flatten(), unseen.rewards.flatten().float()]))[0, 1]) > 0.97


def test_random_answers_teach_nothing_about_the_reward() -> None:
    """Over several such teachers: each leaves the networks with some preference, as often the wrong one."""
    pairs, unseen = drawn(200, 0), drawn(500, 1)
    gaps = unseen.rewards.sum(-1)[:, 0] - unseen.rewards.sum(-1)[:, 1]
    right = []
    for seed in range(10):
        by_lot = answered(pairs, at_random(pairs.rewards[:, 0], pairs.rewards[:, 1]), seed)
        ensemble, _ = taught(pairs, by_lot, updates=40)
        with torch.no_grad():
            margins = judged(ensemble(stacked_inputs(unseen.observations, unseen.actions)).sum(2))
        found = accuracy((margins * gaps.sign()).numpy(), [str(row) for row in range(len(margins))], seed=0)
        right.append(found.value or 0.0)
    assert sum(right) / len(right) == pytest.approx(0.5, abs=0.1)


def test_the_loss_of_a_member_is_that_of_its_pairs_by_hand() -> None:
    returns = torch.tensor([[[2.0, 1.0], [0.0, 4.0]], [[1.0, 1.0], [3.0, 1.0]]])  # [B, 2, M]
    ranks = torch.tensor([[1, 2], [1, 1]])
    loss, metrics = comparison_loss(returns, ranks, None, torch.ones(2))

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    one = softplus(-2.0) + (softplus(2.0) + softplus(-2.0)) / 2
    other = softplus(3.0) + math.log(2)
    assert float(loss) == pytest.approx((one + other) / 4)
    assert float(metrics["reward/accuracy"]) == pytest.approx(0.5)  # one member is right about the ordered pair


def test_a_comparison_weighs_as_often_as_a_member_meets_it() -> None:
    returns = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    ranks = torch.tensor([[1, 2], [2, 1], [1, 2]])
    times = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    loss, _ = comparison_loss(returns, ranks, times, torch.ones(3))
    each = [
        [
            float(comparison_loss(returns[[row]][..., [member]], ranks[[row]], None, torch.ones(1))[0])
            for member in (0, 1)
        ]
        for row in range(3)
    ]
    assert float(loss) == pytest.approx(float((torch.tensor(each) * times).sum() / 6))


def test_what_a_member_meets_stays_when_more_is_answered() -> None:
    many = times_met(range(600), 3, 0)
    assert torch.equal(times_met(range(50), 3, 0), many[:50])
    assert float(many.mean()) == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(times_met(range(50), 3, 1), many[:50])
    assert torch.equal(times_met([7, 7, 9], 3, 0), many[[7, 7, 9]])  # two answers to one question


def test_members_are_networks_of_their_own() -> None:
    ensemble = RewardEnsemble(3, members=2, width=4, layers=2, seed=0)
    inputs = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0))
    found = ensemble(inputs)
    assert found.shape == (7, 5, 2)
    for member in range(2):
        hidden = inputs
        for number, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            hidden = (torch.tanh(hidden) if number else hidden) @ weight[member] + bias[member]
        torch.testing.assert_close(found[..., member], hidden[..., 0])


def test_each_member_is_paid_in_its_own_unit() -> None:
    ensemble = RewardEnsemble(3, members=2, width=4, layers=1, seed=0)
    inputs = torch.randn(900, 3, generator=torch.Generator().manual_seed(0))
    ensemble.measure(inputs, "these")
    paid = ensemble.members(inputs)
    torch.testing.assert_close(paid.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(paid.std(0, correction=0), torch.ones(2))
