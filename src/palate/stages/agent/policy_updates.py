"""PPO's updates of an agent: the losses that a policy of language has, on steps in the place of tokens.

Schulman et al. 2017 (arXiv 1707.06347). Every minibatch is a row of steps, drawn anew in each pass. Left out: a bonus
for entropy, and an end of the passes when the policy has moved far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palate.lm.optim import Optimizer
from palate.objectives.advantages import explained_variance, whiten
from palate.objectives.losses import policy_loss, value_loss
from palate.randomness import permutation
from palate.stages.agent.actor_critic import Policy, ValueNetwork
from palate.stages.agent.trajectories import Trajectories, episode_advantages
from palate.stages.reinforcement.watching import mean_of_updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """All steps of a rollout, in one row of B.

    Attributes:
        seen: [B, O] observations as the networks see them.
        actions: [B, A] as the policy drew them.
        logprobs: [B] of the policy that drew them.
        values: [B] before anything was learned.
        advantages: [B] of mean 0 and variance 1.
        returns: [B] what the value network is to give.
    """

    seen: Tensor
    actions: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def __len__(self) -> int:
        return len(self.seen)


@torch.no_grad()
def batch_of(
    trajectories: Trajectories,
    rewards: Tensor,
    seen: Tensor,
    seen_after: Tensor,
    value: ValueNetwork,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Batch, dict[str, float]]:
    """What is learned from a rollout, and how much of its returns the value network foretold.

    Args:
        rewards: [N, T] that are learned from.
        seen, seen_after: [N, T, O] observations before and after each action, as the networks see them.
    """
    values = value(seen)
    advantages, returns = episode_advantages(
        rewards,
        values,
        value(seen_after),
        trajectories.terminated,
        trajectories.truncated,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    everywhere = torch.ones_like(trajectories.terminated)
    foretold = float(explained_variance(values, returns, everywhere))
    batch = Batch(
        seen=seen.flatten(0, 1),
        actions=trajectories.actions.flatten(0, 1),
        logprobs=trajectories.logprobs.flatten(),
        values=values.flatten(),
        advantages=whiten(advantages, everywhere, shift_mean=True).flatten(),
        returns=returns.flatten(),
    )
    return batch, {"value/explained_variance": foretold} if math.isfinite(foretold) else {}


def improve(
    policy: Policy,
    value: ValueNetwork,
    policy_optimizer: Optimizer,
    value_optimizer: Optimizer,
    batch: Batch,
    *,
    epochs: int,
    minibatches: int,
    clip_range: float,
    clip_range_value: float,
    key: Sequence[int | str],
    step: int,
) -> dict[str, float]:
    """All updates of one rollout.

    Args:
        clip_range_value: 0 leaves the values free.
        key: of the order of the steps.
        step: of the run.
    """
    told = []
    for epoch in range(epochs):
        order = torch.from_numpy(permutation(len(batch), *key, epoch))
        for rows in order.tensor_split(minibatches):
            mask = torch.ones(1, len(rows), dtype=torch.bool)
            loss, metrics = policy_loss(
                policy.logprobs(batch.seen[rows], batch.actions[rows])[None],
                batch.logprobs[rows][None],
                batch.advantages[rows][None],
                mask,
                clip_range=clip_range,
            )
            loss.backward()
            value_error, value_metrics = value_loss(
                value(batch.seen[rows])[None],
                batch.values[rows][None],
                batch.returns[rows][None],
                mask,
                clip_range_value=clip_range_value or None,
            )
            value_error.backward()
            numbers = {name: float(number) for name, number in (metrics | value_metrics).items()}
            told.append((len(rows), numbers | policy_optimizer.step(step) | value_optimizer.step(step)))
    return mean_of_updates(told)
