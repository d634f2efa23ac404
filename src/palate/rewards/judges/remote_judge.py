"""A model that judges and writes behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from palate.errors import EndpointError
from palate.randomness import derive_seed
from palate.recipe import Sampling
from palate.records import Prompt, Provenance, Response
from palate.rewards.judges.endpoint_client import EndpointClient, Reply
from palate.rewards.judges.judge_model import Choice, Leaning, Written, by_majority
from palate.rewards.judges.questions import LETTERS, WORDS

TOP = 20
"""Of the likeliest first tokens so many are asked for: as many as most endpoints give."""
FIRST_TOKEN = {"max_tokens": 1, "temperature": 1.0, "logprobs": True, "top_logprobs": TOP}
"""Nothing is drawn: what counts are the log-probabilities of what would come first."""
NO_ACCIDENT = 8
"""So many questions, none of which is taken, are no matter of questions: something is wrong with all of them."""
_SEEDS = 2**31
"""Endpoints take seeds below it."""


class RemoteJudge:
    """Judges and writes with a model that runs elsewhere.

    Args:
        samples: answers drawn to each question; 0: none, the log-probabilities of the letters decide.
        sampling: of whatever is drawn; slots are the endpoint's own matter.
        seed: with the purpose, the prompt and the number it gives the seed that is sent along.
    """

    def __init__(self, client: EndpointClient, sampling: Sampling, *, seed: int, samples: int = 0) -> None:
        self.client, self.sampling, self.seed, self.samples = client, sampling, seed, samples

    def choose(self, questions: Sequence[Prompt]) -> list[Choice]:
        """As in `JudgeModel`.

        Raises:
            EndpointError, BudgetError: as `EndpointClient.ask`; or log-probabilities are needed and there are none;
                or no question is taken.
        """
        if not self.samples:
            return [self._read(reply) for reply in self._ask([_turns(each) | FIRST_TOKEN for each in questions])]
        numbers = range(self.samples)
        replies = self._ask([self._drawn(each, "judge", number) for each in questions for number in numbers])
        starts = range(0, len(replies), self.samples)
        return [_majority(replies[start : start + self.samples]) for start in starts]

    def lean(self, questions: Sequence[Prompt]) -> list[Leaning]:
        """As in `JudgeModel`; raises as `choose`."""
        return [self._leaning(reply) for reply in self._ask([_turns(each) | FIRST_TOKEN for each in questions])]

    def write(self, prompts: Sequence[Prompt], *, purpose: str) -> list[Written]:
        """As in `JudgeModel`; raises as `choose`."""
        replies = self._ask([self._drawn(prompt, purpose, 0) for prompt in prompts])
        return [self._written(reply) for reply in replies]

    def used(self) -> dict[str, int]:
        """Requests, tokens, and answers that had been given before: by this process."""
        client = self.client
        return {"requests": client.requests, "tokens": client.tokens, "from_cache": client.from_cache}

    def _ask(self, questions: Sequence[Mapping[str, Any]]) -> list[Reply]:
        replies = self.client.ask(questions)
        if len(replies) >= NO_ACCIDENT and all(reply.refusal for reply in replies):
            raise EndpointError(
                f"{self.client.address}: takes none of {len(replies)} questions, the first because of: "
                f"{replies[0].refusal}"
            )
        return replies

    def _drawn(self, prompt: Prompt, purpose: str, number: int) -> dict[str, Any]:
        return _turns(prompt) | {
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "seed": derive_seed(self.seed, purpose, prompt.id, number) % _SEEDS,
        }

    def _written(self, reply: Reply) -> Written:
        if reply.refusal:
            return Written(response=None, reason=reply.refusal)
        provenance = Provenance(
            model=self.client.model,
            temperature=self.sampling.temperature,
            max_new_tokens=self.sampling.max_new_tokens,
            seed=self.seed,
            ended=reply.ended,
        )
        return Written(response=Response(text=reply.text.strip(), provenance=provenance))

    def _read(self, reply: Reply) -> Choice:
        """By the letters among the likeliest first tokens; one that is not among them counts as unlikely."""
        if reply.refusal:
            return Choice(first=None, reason=reply.refusal)
        if not reply.first_tokens:
            raise EndpointError(f"{self.client.address}: gives no log-probabilities: set samples = 1, or more")
        first, second = (_mass(reply.first_tokens, letter) for letter in LETTERS)
        if not first + second:
            return Choice(first=None, reason="neither letter among the likeliest first tokens")
        return Choice(first=first / (first + second))

    def _leaning(self, reply: Reply) -> Leaning:
        """By the words among the likeliest first tokens; one that is not among them counts as the last that is."""
        if reply.refusal:
            return Leaning(log_odds=None, reason=reply.refusal)
        if not reply.first_tokens:
            raise EndpointError(f"{self.client.address}: gives no log-probabilities, by which principles are judged")
        yes, no = (_mass(reply.first_tokens, word) for word in WORDS)
        if not yes + no:
            return Leaning(log_odds=None, reason="neither Yes nor No among the likeliest first tokens")
        least = math.exp(min(reply.first_tokens.values()))
        return Leaning(log_odds=math.log(yes or least) - math.log(no or least))


def _turns(prompt: Prompt) -> dict[str, Any]:
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages]}


def _mass(tokens: Mapping[str, float], word: str) -> float:
    """The probability of a letter or a word, with a space before it or without."""
    return sum(math.exp(logprob) for token, logprob in tokens.items() if token.strip() == word)


def _majority(replies: Sequence[Reply]) -> Choice:
    refused = [reply.refusal for reply in replies if reply.refusal]
    if len(refused) == len(replies):
        return Choice(first=None, reason=refused[0])
    return by_majority([reply.text for reply in replies if not reply.refusal])
