"""Rewards that need no model: a Python function, a length."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from palate.errors import RecipeError
from palate.records import Prompt


def resolve(reference: str) -> Callable[[Sequence[Prompt], Sequence[str]], Any]:
    """The function that ``package.module:name`` names.

    Raises:
        RecipeError: it cannot be imported or is not there.
    """
    module, colon, name = reference.partition(":")
    if not colon:
        raise RecipeError(f"{reference!r}: write a function as package.module:name")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{reference!r} cannot be used as a reward: {error}") from None
    return function  # type: ignore[no-any-return]


class FunctionReward:
    """A user's own function of (prompts, responses) to one number each."""

    def __init__(self, reference: str) -> None:
        self.reference, self.function = reference, resolve(reference)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """[B]; a function that returns another number of scores is refused."""
        scores = torch.as_tensor(self.function(prompts, responses), dtype=torch.float32)
        if scores.shape != (len(responses),):
            raise RecipeError(f"{self.reference!r} gave {tuple(scores.shape)} scores for {len(responses)} responses")
        return scores


class LengthReward:
    """Minus the words beyond ``limit``, in tens."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """[B], zero for responses within the limit."""
        words = torch.tensor([float(len(response.split())) for response in responses])
        return -(words - self.limit).clamp(min=0) / 10
