"""Rewards that need no model: a Python function, a verifier, a length.

A function `NAME` may have a companion `parts_of_NAME` in its module, which says what the scores are made of; see
`simulated/tastes.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from palate.errors import RewardError
from palate.recipe import Verifier
from palate.records import Prompt
from palate.rewards.verifiers.json_schema import check_schema
from palate.rewards.verifiers.verdict import Verdict
from palate.rewards.verifiers.verified import verify
from palate.rollout.engine import SampledTokens
from palate.scores import MEND, ask, call, one_number_each
from palate.simulated.tastes import load_judge
from palate.words import count_words


class FunctionReward:
    """A user's own function of (prompts, responses) to one number each."""

    def __init__(self, reference: str) -> None:
        self.reference, self.judge = reference, load_judge(reference)
        module, _, name = reference.partition(":")
        self._parts_name = f"parts_of_{name}"
        self._parts = getattr(sys.modules.get(module), self._parts_name, None)

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B]; the function is not shown the tokens.

        Raises:
            RewardError: the function raised, or gave something else than a finite number for each response.
        """
        return torch.tensor(ask(self.reference, self.judge, prompts, responses), dtype=torch.float32)

    def parts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Tensor]:
        """What the scores are made of, by name, [B] each; nothing if the function does not say.

        Raises:
            RewardError: `parts_of_NAME` raised, gave no such thing, or parts that do not add up to the scores.
        """
        if self._parts is None:
            return {}
        returned = call(self._parts_name, self._parts, prompts, responses)
        if not isinstance(returned, Mapping) or not returned:
            raise RewardError(f"{self._parts_name} returned {type(returned).__name__}, not parts by name: {MEND}")
        parts = {
            str(name): torch.tensor(one_number_each(f"{self._parts_name}, {name!r}", part, responses, advice=MEND))
            for name, part in returned.items()
        }
        scores, total = self(prompts, responses), torch.stack(list(parts.values())).sum(0)
        if wrong := (~torch.isclose(total, scores, rtol=1e-4, atol=1e-4)).nonzero().flatten().tolist():
            raise RewardError(
                f"{self._parts_name}: the parts of response {wrong[0] + 1} of {len(responses)} add up to "
                f"{total[wrong[0]]:.4f}, its score is {scores[wrong[0]]:.4f}: {MEND}"
            )
        return parts


FEWEST_WORDS = 4


def says_something(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """-1 for a response of fewer than four words, 0 for any other: a floor under what a reward model may overlook.

    A recipe names it as `function = "palate.rewards.rules:says_something"`; its `weight` is the price.
    """
    return [-1.0 if count_words(response) < FEWEST_WORDS else 0.0 for response in responses]


class VerifiedReward:
    """The scores of a verifier, between 0 and 1.

    Raises:
        RecipeError: its JSON schema says what is not understood.
    """

    def __init__(self, settings: Verifier) -> None:
        self.settings = settings
        check_schema(settings.json_schema)

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], tokens: SampledTokens | None = None
    ) -> Tensor:
        """[B]; the verifier reads the text and not the tokens; raises as `verdicts` does."""
        return torch.tensor([verdict.score for verdict in self.verdicts(prompts, responses)])

    def verdicts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Verdict]:
        """[B] with their reasons.

        Raises:
            RewardError: a prompt has not what the verifier needs, or what checks cannot run here.
        """
        return verify(self.settings, prompts, responses)


class LengthReward:
    """Minus the words beyond ``limit``, in tens."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """[B], zero for responses within the limit."""
        words = torch.tensor([float(count_words(response)) for response in responses])
        return -(words - self.limit).clamp(min=0) / 10
