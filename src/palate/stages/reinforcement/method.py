"""What tells one policy-gradient method from another, and what each of them learns from.

Shapes are those of `step.py`, which puts them to work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from palate.lm.model import ScalarModel, Trunk
from palate.lm.optim import Optimizer
from palate.objectives.divergence import k1
from palate.objectives.losses import Metrics
from palate.rollout.engine import Rollout
from palate.stages.reinforcement.watching import USUAL_CLIP_RANGE

Baseline: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(rewards [B], group_ids [B]) -> advantages [B]: each response compared with others."""
ResponseWeights: TypeAlias = Callable[[Tensor], Tensor]
"""(lengths [N]) of the responses of an optimizer step -> [N] what each counts there; all 1 is a mean over tokens."""


class TokenLoss(Protocol):
    """`policy_loss` or a relative, or `value_loss`, with its clip ranges filled in."""

    def __call__(
        self, new: Tensor, old: Tensor, target: Tensor, mask: Tensor, /, *, denominator: float
    ) -> tuple[Tensor, Metrics]:
        """All [B, T]: what the model says now, what it said at sampling, advantages or returns -> loss, metrics."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Critic:
    """A value model: what was to be expected before each token.

    Attributes:
        advantages: (rewards, values, mask), all [B, T] -> advantages and returns, [B, T] each.
        loss: of new values against the returns.
    """

    model: ScalarModel
    optimizer: Optimizer
    advantages: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    loss: TokenLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What tells one policy-gradient method from another.

    Attributes:
        baseline: what was to be expected of a response.
        loss: of the policy; its gradient raises the log-probability of what has a positive advantage.
        weights: of responses against each other.
        kl_loss_coef: price of a nat of divergence from the reference in the loss (k3); the one in the reward is apart.
        clip_range: of the probability ratio; infinite if nothing is clipped.
    """

    baseline: Baseline | Critic
    loss: TokenLoss
    weights: ResponseWeights
    kl_loss_coef: float = 0.0
    clip_range: float = math.inf

    @property
    def clip_range_to_watch(self) -> float:
        """By which tokens that have moved far are counted, also where nothing is clipped."""
        return self.clip_range if math.isfinite(self.clip_range) else USUAL_CLIP_RANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """A rollout and all that is known of it before the update.

    Attributes:
        trunk: the frozen layers' hidden states, for whoever shares them; None when nothing is frozen.
        scores: [B] of the reward, the truncation rule applied.
        ref_logprobs: [B, T] of the reference at the same temperature.
        rewards: [B, T] the price of divergence for every response token, and the score on the last one.
        advantages: [B, T].
        values, returns: [B, T] before each token, and what they should have been; None without a critic.
    """

    rollout: Rollout
    trunk: Trunk | None
    scores: Tensor
    ref_logprobs: Tensor
    rewards: Tensor
    advantages: Tensor
    values: Tensor | None
    returns: Tensor | None

    @property
    def credit(self) -> dict[str, Tensor]:
        """[B, T] each: from the divergence of a token to what it is blamed or praised for, for a person to read."""
        found = {
            "kl": k1(self.rollout.logprobs, self.ref_logprobs),
            "reward": self.rewards,
            "value": self.values,
            "return": self.returns,
            "advantage": self.advantages,
        }
        return {name: numbers for name, numbers in found.items() if numbers is not None}
