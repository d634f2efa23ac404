"""The reward of a recipe: its terms, summed with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from palate.lm.sources.zoo import Precision
from palate.recipe import Reward
from palate.records import Prompt
from palate.rewards.learned import LearnedReward
from palate.rewards.rules import FunctionReward, LengthReward
from palate.rollout.engine import SampledTokens
from palate.scores import one_number_each


class RewardSource(Protocol):
    """Anything that scores responses; a user's own function is one behind `FunctionReward`."""

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B] scores of what the responses say; ``tokens`` are what they were made of, if that is known."""
        ...


def reward_source(term: Reward, *, precision: Precision = "auto", max_tokens: int = 4096) -> RewardSource:
    """The source that one term of a recipe names; a model computes ``max_tokens`` in one pass."""
    if term.model:
        return LearnedReward(term.model, precision=precision, max_tokens=max_tokens)
    return FunctionReward(term.function) if term.function else LengthReward(term.length or 0.0)


class Mix:
    """A weighted sum of rewards.

    Attributes:
        sources: in the recipe's order.
        learned: those of them that are models.
    """

    def __init__(self, terms: Sequence[Reward], *, precision: Precision = "auto", max_tokens: int = 4096) -> None:
        self.weights = [term.weight for term in terms]
        self.sources = [reward_source(term, precision=precision, max_tokens=max_tokens) for term in terms]
        self.learned = [source for source in self.sources if isinstance(source, LearnedReward)]

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B] on the CPU, where the text is.

        Raises:
            RewardError: a term gave what is no score, or their sum is none.
        """
        scored = [source(prompts, responses, tokens).cpu() for source in self.sources]
        total = torch.stack([weight * scores for weight, scores in zip(self.weights, scored, strict=True)]).sum(0)
        one_number_each("the weighted sum of the rewards", total, responses, advice="give the terms smaller weights")
        return total

    @property
    def hashes(self) -> dict[str, str]:
        """Those of the weights of every model in it, by the model's name: for a run's lineage."""
        return {source.loaded.name: source.loaded.weights for source in self.learned}

    def parts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Tensor]:
        """What the scores are made of, by name, [B] each: the weighted parts of a function that stands alone and says.

        Nothing for any other mix.
        """
        if len(self.sources) != 1 or not isinstance(self.sources[0], FunctionReward):
            return {}
        return {name: self.weights[0] * part for name, part in self.sources[0].parts(prompts, responses).items()}
