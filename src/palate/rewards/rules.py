"""Rewards that need no model: a Python function, a length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palate.records import Prompt
from palate.scores import ask
from palate.simulated.tastes import load_judge
from palate.words import count_words


class FunctionReward:
    """A user's own function of (prompts, responses) to one number each."""

    def __init__(self, reference: str) -> None:
        self.reference, self.judge = reference, load_judge(reference)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """[B].

        Raises:
            RewardError: the function raised, or gave something else than a finite number for each response.
        """
        return torch.tensor(ask(self.reference, self.judge, prompts, responses), dtype=torch.float32)


class LengthReward:
    """Minus the words beyond ``limit``, in tens."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """[B], zero for responses within the limit."""
        words = torch.tensor([float(count_words(response)) for response in responses])
        return -(words - self.limit).clamp(min=0) / 10
