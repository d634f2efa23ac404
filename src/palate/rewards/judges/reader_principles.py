"""A reward out of principles that a reader has written down: how far an answer follows each of them, as a model judges.

The model is asked about one answer and one principle at a time, and the reward is the log-odds of Yes against No,
summed over the principles. A number for each answer can be added to a learned reward and costs n questions a principle;
comparing every two of n answers in both orders costs n (n - 1), and a model that goes by the place says nothing then.
What is left out by this is a comparison with the other answers; but how much a model likes to say Yes is the same for
all of them, and changes no choice.

Lee et al. 2023 (arXiv 2309.00267), section 3.2 (a score for one answer from a model's own probabilities), here with the
two words of Kadavath et al. 2022 (arXiv 2207.05221) in place of a scale from 1 to 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palate.errors import RewardError
from palate.records import Prompt
from palate.rewards.judges.judge_model import JudgeModel
from palate.rewards.judges.questions import whether


class PrinciplesReward:
    """How far answers follow principles.

    Args:
        model: that is asked.
        principles: [P], as somebody has written them.
    """

    def __init__(self, model: JudgeModel, principles: Sequence[str]) -> None:
        self.model, self.principles = model, tuple(principles)

    def by_principle(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """[P, B] log-odds, in nats; above zero is rather Yes.

        Raises:
            RewardError: the model says neither Yes nor No.
            DataError: a question is too long for it.
        """
        questions = [
            whether(prompt, text, principle)
            for principle in self.principles
            for prompt, text in zip(prompts, responses, strict=True)
        ]
        found: list[float] = []
        for leaning in self.model.lean(questions):
            if leaning.log_odds is None:
                raise RewardError(f"how far an answer follows a principle was not said: {leaning.reason}")
            found.append(leaning.log_odds)
        return torch.tensor(found, dtype=torch.float64).view(len(self.principles), len(responses))
