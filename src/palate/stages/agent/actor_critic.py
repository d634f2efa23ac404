"""The agent's networks: two kinds of policy with the same methods, a value network, and the scale of what they see.

A policy of numbers draws each from a normal distribution whose mean the network gives and whose spread is learned for
all observations alike; a policy of choices draws one. Weights begin orthogonal, the last layer small, so that the first
policy hardly prefers anything (Andrychowicz et al. 2020, arXiv 2006.05990).

Left out: a trunk that policy and value share, recurrence, convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from palate.randomness import derive_seed, normals, uniforms


class Policy(Protocol):
    """What acts. N observations, A numbers of an action (1 of a choice: its number)."""

    def noise(self, steps: int, count: int, *key: int | str) -> Tensor:
        """[steps, count, A] random numbers, all that drawing actions needs."""
        ...

    def draw(self, observations: Tensor, noise: Tensor) -> Tensor:
        """[N, A] actions, a function of observations [N, O] and noise [N, A]."""
        ...

    def mode(self, observations: Tensor) -> Tensor:
        """[N, A] the likeliest actions."""
        ...

    def logprobs(self, observations: Tensor, actions: Tensor) -> Tensor:
        """[...] log-probabilities, or densities, of actions [..., A] at observations [..., O], in nats."""
        ...

    def entropy(self, observations: Tensor) -> Tensor:
        """[...] of the distribution of actions, in nats."""
        ...


class GaussianPolicy(nn.Module):
    """Actions of A numbers, in units in which an environment's bounds are -1 and 1."""

    def __init__(self, num_observations: int, num_actions: int, *, width: int, layers: int, seed: int) -> None:
        super().__init__()
        self.mean = perceptron([num_observations, *[width] * layers, num_actions], last_gain=0.01, seed=seed)
        self.log_std = nn.Parameter(torch.zeros(num_actions))

    def noise(self, steps: int, count: int, *key: int | str) -> Tensor:
        """Standard normal numbers."""
        shape = (steps, count, len(self.log_std))
        return torch.from_numpy(normals(math.prod(shape), *key)).to(torch.float32).view(shape)

    def draw(self, observations: Tensor, noise: Tensor) -> Tensor:
        """The mean and so many standard deviations."""
        drawn: Tensor = self.mean(observations) + self.log_std.exp() * noise
        return drawn

    def mode(self, observations: Tensor) -> Tensor:
        """The mean."""
        found: Tensor = self.mean(observations)
        return found

    def logprobs(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The sum over the numbers of an action of log N(action; mean, std), as the environment takes the action.

        All that is drawn beyond a bound is taken at the bound and has the same consequences, so it is one event, with
        the mass beyond as its probability. The gradient has the expectation it had, and less variance (Fujita and Maeda
        2018, arXiv 1802.07564, equation 8).
        """
        mean, per_std = self.mean(observations), (-self.log_std).exp()
        inside = -0.5 * ((actions - mean) * per_std).square() - self.log_std - 0.5 * math.log(2 * math.pi)
        above, below = (torch.special.log_ndtr((sign * mean - 1) * per_std) for sign in (1, -1))
        found: Tensor = torch.where(actions >= 1, above, torch.where(actions <= -1, below, inside)).sum(-1)
        return found

    def entropy(self, observations: Tensor) -> Tensor:
        """The same whatever is seen: the spread is."""
        each = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return each.sum().expand(observations.shape[:-1])


class ChoicePolicy(nn.Module):
    """One of several actions."""

    def __init__(self, num_observations: int, num_choices: int, *, width: int, layers: int, seed: int) -> None:
        super().__init__()
        self.logits = perceptron([num_observations, *[width] * layers, num_choices], last_gain=0.01, seed=seed)

    def noise(self, steps: int, count: int, *key: int | str) -> Tensor:
        """Uniform numbers."""
        return torch.from_numpy(uniforms(steps * count, *key)).view(steps, count, 1)

    def draw(self, observations: Tensor, noise: Tensor) -> Tensor:
        """The choice at which the summed probabilities pass the number."""
        logits: Tensor = self.logits(observations)
        passed = noise >= logits.double().softmax(-1).cumsum(-1)[..., :-1]
        return passed.sum(-1, keepdim=True).to(torch.float32)

    def mode(self, observations: Tensor) -> Tensor:
        """The likeliest choice; of equal ones the first."""
        found: Tensor = self.logits(observations).argmax(-1, keepdim=True)
        return found.to(torch.float32)

    def logprobs(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Of the choices that were made."""
        found: Tensor = self.logits(observations).log_softmax(-1)
        return found.gather(-1, actions.long())[..., 0]

    def entropy(self, observations: Tensor) -> Tensor:
        """-sum p log p."""
        logprobs: Tensor = self.logits(observations).log_softmax(-1)
        return -(logprobs.exp() * logprobs).sum(-1)


class ValueNetwork(nn.Module):
    """What will be earned from here on, discounted: [..., O] -> [...]."""

    def __init__(self, num_observations: int, *, width: int, layers: int, seed: int) -> None:
        super().__init__()
        self.value = perceptron([num_observations, *[width] * layers, 1], last_gain=1.0, seed=seed)

    def forward(self, observations: Tensor) -> Tensor:
        """[...] values of observations [..., O]."""
        found: Tensor = self.value(observations)
        return found[..., 0]


def perceptron(sizes: list[int], *, last_gain: float, seed: int) -> nn.Sequential:
    """Linear layers of these widths with tanh between them; orthogonal weights drawn from the seed, no biases yet."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for number, (inside, outside) in enumerate(pairwise(sizes)):
        is_last = number == len(sizes) - 2
        layer = nn.utils.skip_init(nn.Linear, inside, outside)
        nn.init.orthogonal_(layer.weight, last_gain if is_last else math.sqrt(2), generator=generator)
        nn.init.zeros_(layer.bias)
        parts += [layer] if is_last else [layer, nn.Tanh()]
    return nn.Sequential(*parts)


def policy_for(
    num_observations: int, num_choices: int, num_actions: int, *, width: int, layers: int, seed: int
) -> GaussianPolicy | ChoicePolicy:
    """The kind that an environment's actions ask for."""
    settings = {"width": width, "layers": layers, "seed": derive_seed(seed, "agent", "policy")}
    if num_choices:
        return ChoicePolicy(num_observations, num_choices, **settings)
    return GaussianPolicy(num_observations, num_actions, **settings)


class Scale:
    """Mean and spread of all observations so far, by which networks see them; the same for all of a rollout."""

    def __init__(self, num_observations: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.mean = torch.zeros(num_observations, dtype=torch.float64)
        self.squares = torch.zeros(num_observations, dtype=torch.float64)

    def __call__(self, observations: Tensor) -> Tensor:
        """[..., O] in units of the spread around the mean; before anything was seen as they are."""
        if not self.count:
            return observations
        std = (self.squares / self.count).sqrt()
        std = torch.where(std > 0, std, 1.0)  # a number that never changes
        return (observations - self.mean.float()) / std.float()

    def update(self, observations: Tensor) -> None:
        """Take in more of them, [..., O] (Chan et al. 1983: the moments of two samples together)."""
        rows = observations.double().flatten(0, -2)
        count, mean = self.count + len(rows), rows.mean(0)
        gap = mean - self.mean
        self.squares = self.squares + (rows - mean).square().sum(0) + gap.square() * self.count * len(rows) / count
        self.mean = self.mean + gap * len(rows) / count
        self.count = count

    def state_dict(self) -> Mapping[str, Tensor]:
        """All of it."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
