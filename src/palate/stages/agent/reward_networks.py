"""What a step is worth, learned from comparisons: an ensemble of small networks of observation and action.

The return of a clip is the sum over its steps of what a network gives, and the loss is that of a reward model of
responses: `objectives.losses.ranking_loss`, with a clip in the place of a response and a pair in that of a ranking.
Each network meets a sample of the comparisons of its own, as the heads of an ensemble do there (the online bootstrap of
Oza and Russell 2001), and is brought to mean 0 and spread 1 before they are taken together.

Christiano et al. 2017 (arXiv 1706.03741), section 2.2. Left out: a share of answers that are taken to be given at
random, and a validation set by which the decay of weights is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import poisson
from torch import Tensor, nn

from palate.lm.optim import Optimizer
from palate.objectives.losses import Metrics, combine_metrics, ranking_loss
from palate.randomness import derive_seed, permutation, uniforms
from palate.rewards.heads import Normalization
from palate.stages.agent.clips import Comparisons
from palate.stages.reinforcement.watching import mean_of_updates


class RewardEnsemble(nn.Module):
    """M networks, computed side by side; each has its own unit.

    Args:
        num_inputs: numbers of an observation and an action (F).
        members: M.
        width, layers: of each.
        seed: of the run.

    Attributes:
        units: [M] origin and unit of what each member gives; set by `measure`.
    """

    def __init__(self, num_inputs: int, *, members: int, width: int, layers: int, seed: int) -> None:
        super().__init__()
        sizes = [num_inputs, *[width] * layers, 1]
        generator = torch.Generator().manual_seed(derive_seed(seed, "agent", "reward networks"))
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inside, outside in pairwise(sizes):
            bound = 1 / math.sqrt(inside)
            drawn = torch.rand(members, inside, outside, generator=generator)
            self.weights.append(nn.Parameter((2 * drawn - 1) * bound))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, outside)))
        self.units = [Normalization()] * members

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., F] -> [..., M], in the units in which comparisons are learned."""
        hidden = inputs.flatten(0, -2).expand(len(self.units), -1, -1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden if not number else torch.tanh(hidden), weight)
        return hidden[..., 0].T.reshape(*inputs.shape[:-1], len(self.units))

    @torch.no_grad()
    def measure(self, inputs: Tensor, reference: str) -> None:
        """Take the mean and the spread of each member on inputs [N, F] for its origin and unit."""
        self.units = [Normalization.of(scores, reference) for scores in self(inputs).unbind(1)]

    @torch.no_grad()
    def members(self, inputs: Tensor) -> Tensor:
        """[..., F] -> [..., M] rewards, each in its unit."""
        raw: Tensor = self(inputs)
        mean, scale = (torch.tensor([getattr(unit, name) for unit in self.units]) for name in ("mean", "scale"))
        return (raw - mean) / scale


def fit(
    ensemble: RewardEnsemble,
    optimizer: Optimizer,
    inputs: Tensor,
    comparisons: Comparisons,
    *,
    updates: int,
    batch_size: int,
    bootstrap: bool,
    seed: int,
    step: int,
) -> dict[str, float]:
    """Learn from all comparisons so far, in batches; what came of the last pass over them.

    Args:
        inputs: [Q, 2, L, F] what the networks see of their clips.
        comparisons: Q of them, at least one.
        updates: optimizer steps.
        step: of the run.
    """
    order: list[int] = []
    told: list[tuple[int, dict[str, float]]] = []
    times = times_met(comparisons.numbers.tolist(), len(ensemble.units), seed) if bootstrap else None
    batch_size = min(batch_size, len(comparisons))
    for update in range(updates):
        while len(order) < batch_size:
            order += permutation(len(comparisons), seed, "agent", "comparisons", step, update, len(order)).tolist()
        batch, order = torch.tensor(order[:batch_size]), order[batch_size:]
        returns = ensemble(inputs[batch]).sum(2)  # [B, 2, M]
        loss, metrics = comparison_loss(
            returns, comparisons.ranks[batch], None if times is None else times[batch], comparisons.weights[batch]
        )
        loss.backward()
        numbers = {name: float(number) for name, number in metrics.items()}
        told.append((batch_size, numbers | optimizer.step(step)))
    return mean_of_updates(told[-math.ceil(len(comparisons) / batch_size) :])


def times_met(numbers: Sequence[int], members: int, seed: int) -> Tensor:
    """[Q, M] how often each member meets a comparison of this number: Poisson(1), whatever else is answered.

    Several answers to one question are met together.
    """
    lots = np.array([uniforms(members, seed, "agent", "bootstrap", number) for number in numbers])
    return torch.from_numpy(poisson.ppf(lots, 1)).float()


def comparison_loss(returns: Tensor, ranks: Tensor, times: Tensor | None, weights: Tensor) -> tuple[Tensor, Metrics]:
    """The ranking loss of pairs of clips, the mean over members.

    Args:
        returns: [B, 2, M] what each member gives the clips of a pair.
        ranks: [B, 2], 1 is better; equal ones are a tie.
        times: [B, M] how often a member meets the comparison; once, if absent.
        weights: [B] of the comparisons.
    """
    members = returns.shape[2]
    pair_ids = torch.arange(len(returns)).repeat_interleave(2)
    losses, parts = [], []
    for member in range(members):
        met = weights if times is None else weights * times[:, member]
        loss, metrics = ranking_loss(
            returns[..., member].flatten(),
            ranks.flatten(),
            pair_ids,
            weights=met.repeat_interleave(2),
            denominator=float(weights.sum()) * members,
        )
        losses.append(loss)
        parts.append(metrics)
    return torch.stack(losses).sum(), combine_metrics(parts)


def judged(returns: Tensor) -> Tensor:
    """[B] the mean over members of how much more the first clip of a pair is worth, of returns [B, 2, M]."""
    found: Tensor = (returns[:, 0] - returns[:, 1]).mean(-1)
    return found


def stacked_inputs(observations: Tensor, actions: Tensor) -> Tensor:
    """[..., O + A] what a reward network sees: scaled observations, and actions as the environment takes them."""
    return torch.cat([observations, actions], -1)
