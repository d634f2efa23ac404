"""What two stages share: which model is asked, and what it is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from palate.corpus import Read
from palate.errors import RecipeError
from palate.recipe import Constitution, Endpoint, Principle, Sampling
from palate.records import Candidates, Prompt, Response
from palate.rewards.judges.constitutions import drawn
from palate.rewards.judges.endpoint_client import EndpointClient
from palate.rewards.judges.judge_model import Choice
from palate.rewards.judges.questions import question
from palate.rewards.judges.remote_judge import RemoteJudge
from palate.run.directory import Run
from palate.stages.ai_feedback.both_orders import Asked, Judged
from palate.stages.estimate.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Matter:
    """A prompt, the different answers to it, and what is to be asked about them.

    Attributes:
        asked: pairs of answers by their numbers, each with a principle.
        left_out: pairs about which nothing can be asked.
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    asked: tuple[tuple[tuple[int, int], Principle], ...]
    left_out: int = 0

    def questions(self) -> Iterator[Prompt]:
        """Two for each that is asked: in one order and in the other."""
        for (one, other), principle in self.asked:
            texts = (self.responses[one].text, self.responses[other].text)
            yield question(self.prompt, texts, principle)
            yield question(self.prompt, texts[::-1], principle)

    def without(self, too_long: set[int]) -> Matter:
        """The same without the pairs of which a question, by its number, is too long."""
        pairs = {self.asked[number // 2][0] for number in too_long}
        asked = tuple(each for each in self.asked if each[0] not in pairs)
        return Matter(prompt=self.prompt, responses=self.responses, asked=asked, left_out=len(pairs))

    def judged(self, choices: Iterator[Choice], rule: Literal["same", "mean"] = "same") -> Judged:
        """With what was answered to its questions, in their order; ``rule`` is what a verdict is."""
        found = []
        for pair, principle in self.asked:
            both = (next(choices), next(choices))
            reasons = tuple(each.reason for each in both if each.reason)
            found.append(
                Asked(principle=principle.name, pair=pair, first=(both[0].first, both[1].first), reasons=reasons)
            )
        return Judged(
            prompt=self.prompt, responses=self.responses, asked=tuple(found), left_out=self.left_out, rule=rule
        )


def matters_of(data: Read[Candidates], constitution: Constitution, *, principles: int, seed: int) -> list[Matter]:
    """What is to be asked, prompt by prompt: every two different answers that stand in one record, once.

    Records that cannot be compared are left out and counted.

    Args:
        principles: that are asked about each pair, by lot.
    """
    prompts: dict[str, Prompt] = {}
    answers: dict[str, dict[str, Response]] = {}
    pairs: dict[str, dict[tuple[int, int], None]] = {}
    for item in data.records:
        texts = list(dict.fromkeys(response.text for response in item.responses))
        if item.prompt.has_tools or any(response.tool_calls for response in item.responses):
            data.leave_out(item, "tools are called: only texts are compared")
        elif len(texts) < 2:
            data.leave_out(item, "no two different answers")
        else:
            prompt_id = item.prompt.id
            prompts.setdefault(prompt_id, item.prompt)
            known = answers.setdefault(prompt_id, {})
            for response in item.responses:
                known.setdefault(response.text, response)
            places = sorted(list(known).index(text) for text in texts)
            pairs.setdefault(prompt_id, {}).update(dict.fromkeys(combinations(places, 2)))
    return [
        Matter(
            prompt=prompt,
            responses=tuple(answers[prompt_id].values()),
            asked=tuple(
                (pair, principle)
                for pair in pairs[prompt_id]
                for principle in drawn(constitution.principles, principles, seed, "judge", prompt_id, *pair)
            ),
        )
        for prompt_id, prompt in prompts.items()
    ]


def elsewhere(
    run: Run,
    endpoint: Endpoint,
    model: str,
    sampling: Sampling,
    *,
    seed: int,
    samples: int,
    num_questions: int,
    role: str = "model",
) -> RemoteJudge:
    """The model at an endpoint, and what it will be asked, before it is.

    Args:
        num_questions: at most.
        role: what the run's inputs call it.

    Raises:
        EndpointError: the key is not there.
        RecipeError: somebody wanted an estimate.
    """
    about = f"{num_questions:,} questions for {model} at {endpoint.url}"
    if isinstance(run, Trial):
        raise RecipeError(f"nothing to estimate, since the model runs elsewhere: {about}")
    run.add_inputs({role: f"{model} at {endpoint.url}"})
    client = EndpointClient(endpoint, model, run.directory)
    if endpoint.key_variable and endpoint.url.startswith("http://"):
        run.note(f"endpoint: the key in {endpoint.key_variable} is sent without encryption: {endpoint.url} is no https")
    run.say(f"{about}; answers are kept in {client.answers}")
    return RemoteJudge(client, sampling, seed=seed, samples=samples)


def spent(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, float]:
    """What was used meanwhile, as metrics."""
    return {f"endpoint/{name}": float(count - before[name]) for name, count in now.items()}
