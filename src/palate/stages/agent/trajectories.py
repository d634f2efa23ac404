"""What the agent did in one rollout, and what it should have earned from there: advantages over several episodes.

Two ends of an episode look alike and mean opposite things. Where it *terminated* nothing was to be earned any more.
Where it was *truncated*, by its limit of steps or by the end of the rollout, it would have gone on, and what the value
network expects from there is added to the last reward. Confusing them teaches an agent that a limit of time is death
(Pardo et al. 2018, arXiv 1712.00378).

The recursion itself is `objectives.advantages.gae`, as it is for responses: every piece of an episode is one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from palate.objectives.advantages import gae
from palate.stages.agent.actor_critic import Policy, Scale
from palate.stages.agent.environments import Environments


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """T steps of each of N copies. Index t speaks about the action that was chosen at ``observations[:, t]``.

    Attributes:
        observations: [N, T, O] before the action, not scaled.
        after: [N, T, O] after it, before another episode began.
        actions: [N, T, A] as the policy drew them.
        logprobs: [N, T] of the actions, of the policy that drew them.
        rewards: [N, T] the environment's own.
        terminated, truncated: [N, T] whether the episode ended there, and how.
    """

    observations: Tensor
    after: Tensor
    actions: Tensor
    logprobs: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor

    @property
    def ended(self) -> Tensor:
        """[N, T] whether another episode began after that step."""
        return self.terminated | self.truncated

    @classmethod
    def stacked(cls, steps: Sequence[Self]) -> Self:
        """From single steps, whose tensors are [N, ...]."""
        return cls(**{each.name: torch.stack([getattr(step, each.name) for step in steps], 1) for each in fields(cls)})


@torch.no_grad()
def act(
    environments: Environments, policy: Policy, scale: Scale, *, steps: int, key: Sequence[int | str]
) -> Trajectories:
    """Let the policy act for so many steps in every copy.

    Args:
        key: of its random numbers.
    """
    noise = policy.noise(steps, len(environments.copies), *key)
    done = []
    for step in range(steps):
        observations = torch.from_numpy(environments.observations.copy())
        seen = scale(observations)
        actions = policy.draw(seen, noise[step])
        came = environments.step(actions)
        done.append(
            Trajectories(
                observations=observations,
                after=torch.from_numpy(came.observations),
                actions=actions,
                logprobs=policy.logprobs(seen, actions),
                rewards=torch.from_numpy(came.rewards),
                terminated=torch.from_numpy(came.terminated),
                truncated=torch.from_numpy(came.truncated),
            )
        )
    return Trajectories.stacked(done)


@torch.no_grad()
def evaluate(environments: Environments, policy: Policy, scale: Scale) -> Tensor:
    """[N] returns of the first episode of each copy by the environment's own reward; the policy acts at its mode."""
    returns = torch.zeros(len(environments.copies), dtype=torch.float64)
    going_on = torch.ones(len(returns), dtype=torch.bool)
    while going_on.any():
        came = environments.step(policy.mode(scale(torch.from_numpy(environments.observations.copy()))))
        returns += torch.where(going_on, torch.from_numpy(came.rewards), 0.0)
        going_on &= ~torch.from_numpy(came.terminated | came.truncated)
    return returns


def pieces(ended: Tensor) -> tuple[Tensor, Tensor]:
    """The uninterrupted pieces of N rows of T steps: where an episode ends, and at the end of a row, one is over.

    Args:
        ended: [N, T] boolean.

    Returns:
        [S, L] places of their steps among the N * T ones, and which of these are steps at all: pieces are of different
        lengths, and L is that of the longest. Other places are 0.
    """
    last = ended.clone()
    last[:, -1] = True
    ends = last.flatten().nonzero()[:, 0] + 1
    starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]])
    offsets = torch.arange(int((ends - starts).max()))
    mask = offsets < (ends - starts)[:, None]
    return torch.where(mask, starts[:, None] + offsets, 0), mask


def episode_advantages(
    rewards: Tensor,
    values: Tensor,
    after_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over rows that hold several episodes, or parts of some.

    `gae` of every piece, after ``gamma * after_values`` was added to the last reward of each that would have gone on:

        delta[n,t] = rewards[n,t] + gamma * (0 if terminated[n,t] else after_values[n,t]) - values[n,t]

    at the last step of a piece, and what comes after it in the row adds nothing.

    Args:
        rewards: [N, T], earned by the action at t.
        values: [N, T], before that action.
        after_values: [N, T], of the observation after it.
        terminated: [N, T], nothing is earned after t.
        truncated: [N, T], the episode was cut off after t.
        gamma: the discount per step.
        gae_lambda: 0 trusts the values (one-step), 1 trusts the rewards (Monte Carlo).

    Returns:
        Advantages and returns, [N, T] each.
    """
    index, mask = pieces(terminated | truncated)
    cut_off = truncated.clone()
    cut_off[:, -1] = True
    continued = cut_off & ~terminated
    earned = rewards + torch.where(continued, gamma * after_values, 0.0)
    found = gae(
        earned.flatten()[index], values.flatten()[index], mask, gamma=gamma, gae_lambda=gae_lambda
    )  # [S, L] each
    advantages, returns = (torch.zeros(rewards.numel(), dtype=values.dtype) for _ in found)
    for whole, each in zip((advantages, returns), found, strict=True):
        whole[index[mask]] = each[mask]
    return advantages.view(rewards.shape), returns.view(rewards.shape)


def finished_returns(trajectories: Trajectories, begun: Tensor) -> tuple[list[float], Tensor]:
    """Returns of the episodes that ended in a rollout, by the environment's own reward.

    Args:
        begun: [N] what was earned before the rollout in the episodes that went on in it.

    Returns:
        Them, and [N] what was earned so far in those that have not ended.
    """
    found, so_far = [], begun.clone()
    for rewards, ended in zip(trajectories.rewards.unbind(1), trajectories.ended.unbind(1), strict=True):
        so_far = so_far + rewards
        found += so_far[ended].tolist()
        so_far = torch.where(ended, 0.0, so_far)
    return found, so_far
