"""The two kinds of policy against torch's own distributions, and the scale of observations."""

from __future__ import annotations

import pytest
import torch

from palate.stages.agent.actor_critic import ChoicePolicy, GaussianPolicy, Scale, ValueNetwork, policy_for


@pytest.fixture
def observations() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def test_numbers_are_drawn_from_a_normal_distribution(observations: torch.Tensor) -> None:
    policy = GaussianPolicy(4, 2, width=8, layers=1, seed=0)
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-0.5, 0.3]))
    normal = torch.distributions.Normal(policy.mean(observations), policy.log_std.exp())
    actions = policy.draw(observations, policy.noise(1, 6, "test", 0)[0])
    within = actions.clamp(-0.99, 0.99)
    torch.testing.assert_close(policy.logprobs(observations, within), normal.log_prob(within).sum(-1))
    torch.testing.assert_close(policy.entropy(observations), normal.entropy().sum(-1))
    torch.testing.assert_close(policy.mode(observations), normal.mean)
    many = policy.draw(observations[:1].expand(20_000, 4), policy.noise(1, 20_000, "test", 1)[0])
    torch.testing.assert_close(many.mean(0), normal.mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(many.std(0), policy.log_std.exp(), atol=0.03, rtol=0)


def test_what_is_beyond_a_bound_is_one_event(observations: torch.Tensor) -> None:
    """However far beyond: its probability is the mass there, and with the density inside it adds up to 1."""
    policy = GaussianPolicy(4, 1, width=8, layers=1, seed=0)
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-0.2]))
        policy.mean[-1].weight.mul_(100)  # type: ignore[operator, union-attr]
    normal = torch.distributions.Normal(policy.mean(observations), policy.log_std.exp())
    for beyond in (1.0, 1.7, 40.0):
        above, below = (policy.logprobs(observations, torch.full((6, 1), sign * beyond)) for sign in (1, -1))
        torch.testing.assert_close(above.exp(), (1 - normal.cdf(torch.tensor(1.0)))[:, 0])
        torch.testing.assert_close(below.exp(), normal.cdf(torch.tensor(-1.0))[:, 0])
    grid = torch.linspace(-1, 1, 4001)[1:-1]
    density = torch.stack([policy.logprobs(observations, value.expand(6, 1)) for value in grid]).exp()
    whole = density.sum(0) * (grid[1] - grid[0]) + above.exp() + below.exp()
    torch.testing.assert_close(whole, torch.ones(6), atol=2e-3, rtol=0)


def test_actions_far_beyond_a_bound_have_gradients(observations: torch.Tensor) -> None:
    """Where the mean is far on the other side the mass is too small for a number, and its logarithm is not."""
    policy = GaussianPolicy(4, 1, width=8, layers=1, seed=0)
    with torch.no_grad():
        policy.mean[-1].bias.fill_(30.0)  # type: ignore[operator, union-attr]
        policy.log_std.fill_(-1.0)
    for action in (-5.0, 0.5, 5.0):
        policy.zero_grad()
        found = policy.logprobs(observations, torch.full((6, 1), action))
        found.sum().backward()
        assert torch.isfinite(found).all()
        assert all(torch.isfinite(parameter.grad).all() for parameter in policy.parameters())


def test_choices_are_drawn_as_often_as_their_probability_says(observations: torch.Tensor) -> None:
    policy = ChoicePolicy(4, 3, width=8, layers=1, seed=0)
    with torch.no_grad():
        policy.logits[-1].weight.mul_(200)  # type: ignore[operator, union-attr]
    categorical = torch.distributions.Categorical(logits=policy.logits(observations))
    actions = policy.draw(observations, policy.noise(1, 6, "test", 0)[0])
    torch.testing.assert_close(policy.logprobs(observations, actions), categorical.log_prob(actions[:, 0]))
    torch.testing.assert_close(policy.entropy(observations), categorical.entropy())
    assert policy.mode(observations)[:, 0].tolist() == categorical.probs.argmax(-1).tolist()
    many = policy.draw(observations[:1].expand(20_000, 4), policy.noise(1, 20_000, "test", 1)[0])
    shares = torch.bincount(many[:, 0].long(), minlength=3) / 20_000
    torch.testing.assert_close(shares, categorical.probs[0], atol=0.02, rtol=0)


def test_networks_are_a_function_of_the_seed() -> None:
    settings = {"width": 8, "layers": 2}
    same, again, other = (policy_for(4, 0, 2, seed=seed, **settings) for seed in (0, 0, 1))
    assert isinstance(same, GaussianPolicy)
    assert isinstance(policy_for(4, 3, 3, seed=0, **settings), ChoicePolicy)
    for one, two, three in zip(same.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.ndim < 2 or not torch.equal(one, three)
    assert ValueNetwork(4, seed=0, **settings)(torch.zeros(3, 5, 4)).shape == (3, 5)


def test_the_scale_is_that_of_everything_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, size, 4, generator=generator) * 3 + 5 for size in (2, 7, 1)]
    scale = Scale(4)
    assert torch.equal(scale(parts[0]), parts[0])
    for part in parts:
        scale.update(part)
    everything = torch.cat([part.flatten(0, 1) for part in parts])
    seen = scale(everything)
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    again = Scale(4)
    again.load_state_dict(scale.state_dict())
    assert torch.equal(again(everything), seen)


def test_a_number_that_never_changes_stays_finite() -> None:
    scale = Scale(2)
    scale.update(torch.ones(5, 2))
    assert torch.equal(scale(torch.ones(1, 2)), torch.zeros(1, 2))
