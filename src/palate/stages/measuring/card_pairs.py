"""A win rate by a model elsewhere: every two responses are shown to it side by side, in both orders.

What is asked, how an endpoint is asked, and what a verdict is are those of `palate judge` (`stages/ai_feedback/`), and
so are budgets and kept answers: a command that stopped goes on, and nobody pays twice for a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from palate.disk import write_text
from palate.errors import DataError
from palate.evals.protocols.wins import Duel, met
from palate.intervals import Floats
from palate.recipe import CardJudge, Constitution
from palate.records import Prompt, Response
from palate.rewards.judges.constitutions import drawn, read_constitution
from palate.rewards.judges.remote_judge import RemoteJudge
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.ai_feedback.asking import Matter, elsewhere
from palate.stages.ai_feedback.both_orders import Judged
from palate.stages.ai_feedback.judge import steps_of
from palate.stages.ai_feedback.judge_report import Numbers, figures
from palate.stages.estimate.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the model made of all pairs.

    Attributes:
        duels: [N] by prompt; one in which nothing was decided is empty.
        numbers: how often the first place was chosen, and all else that `palate judge` reports; what was spent.
        alike: comparisons of two responses that say the same, which are ties that nobody was asked about.
        undecided: comparisons without a verdict.
        total: comparisons.
    """

    duels: Sequence[Duel]
    numbers: Numbers
    alike: int
    undecided: int
    total: int


class PairJudge:
    """The model elsewhere, and the principles that it goes by.

    Args:
        num_prompts, num_responses: that will be compared, for what is said before it is asked.

    Attributes:
        note: for an estimate.

    Raises:
        DataError, RecipeError: the constitution cannot be read.
        EndpointError: the key is not there.
    """

    def __init__(self, settings: CardJudge, run: Run, *, seed: int, num_prompts: int, num_responses: int) -> None:
        assert settings.endpoint is not None, "it is elsewhere"
        self.settings, self.seed = settings, seed
        self.constitution: Constitution = read_constitution(settings.constitution)
        asked = min(settings.principles_per_pair, len(self.constitution.principles)) * max(1, settings.samples)
        most = 2 * asked * num_prompts * num_responses**2
        self.model: RemoteJudge | None = None
        self.note = f"the judge runs elsewhere, and is asked up to {most:,} questions besides"
        if isinstance(run, Trial):
            return
        self.model = elsewhere(
            run,
            settings.endpoint,
            settings.model,
            settings.sampling,
            seed=seed,
            samples=settings.samples,
            num_questions=most,
            role="judge",
        )
        run.add_inputs({"constitution": self.constitution.version})

    def compare(
        self, run: Run, prompts: Sequence[Prompt], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]
    ) -> Compared:
        """Every response of the one model with every one of the other; ``verdicts.jsonl`` keeps what was said.

        Raises:
            DataError: it decided nothing.
            EndpointError, BudgetError: as `EndpointClient.ask`; what was answered is kept.
        """
        assert self.model is not None, "nobody asks for an estimate any more"
        matters = [self._matter(*each) for each in zip(prompts, ours, theirs, strict=True)]
        judged: list[Judged] = []
        with showing("prompts compared") as show:
            for part in steps_of(matters):
                show(len(judged), len(matters))
                choices = iter(self.model.choose([question for each in part for question in each.questions()]))
                judged += [each.judged(choices, self.settings.verdict) for each in part]
        write_text(run.directory / "verdicts.jsonl", "".join(each.to_json() + "\n" for each in judged))
        outcomes = [_outcomes(*each) for each in zip(judged, ours, theirs, strict=True)]
        undecided = sum(int(np.isnan(each).sum()) for each in outcomes)
        total = sum(each.size for each in outcomes)
        alike = sum(one == other for a, b in zip(ours, theirs, strict=True) for one, other in product(a, b))
        if undecided and undecided == total - alike:
            raise DataError(f"{self.settings.model} decided none of the {undecided} pairs that it was shown")
        asked = [each for each in judged if each.asked]
        found = figures(asked, [], model=self.settings.model, seed=self.seed).numbers if asked else {}
        return Compared(
            duels=[met(*each) for each in zip(ours, theirs, outcomes, strict=True)],
            numbers=found | {name: float(count) for name, count in self.model.used().items()},
            alike=alike,
            undecided=undecided,
            total=total,
        )

    def _matter(self, prompt: Prompt, ours: Sequence[str], theirs: Sequence[str]) -> Matter:
        texts = _different(ours, theirs)
        pairs = dict.fromkeys(_pair(texts, *each) for each in product(ours, theirs) if each[0] != each[1])
        count, principles = self.settings.principles_per_pair, self.constitution.principles
        return Matter(
            prompt=prompt,
            responses=tuple(Response(text=text) for text in texts),
            asked=tuple(
                (pair, principle)
                for pair in pairs
                for principle in drawn(principles, count, self.seed, "judge", prompt.id, *pair)
            ),
        )


def remarks_of(found: Compared, model: str) -> list[str]:
    """How it judged, and what was left out."""
    first, flips = found.numbers.get("first_place"), found.numbers.get("flips")
    said = [f"Judged by {model}, which saw both orders of {found.total - found.alike:,} of {found.total:,} pairs."]
    if found.alike:
        said.append(f"{found.alike:,} pairs say the same and are ties.")
    if first is not None and flips is not None:
        said.append(
            f"It took the first place in {first:.0%} of questions, and another response in each order of "
            f"{flips:.0%} of pairs."
        )
    if found.undecided:
        empty = sum(not len(each.outcomes) for each in found.duels)
        said.append(f"{found.undecided:,} pairs without a verdict are left out, {empty} prompts with them.")
    return said


def _different(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*ours, *theirs]))


def _pair(texts: Sequence[str], one: str, other: str) -> tuple[int, int]:
    """Their places, the lower first: two texts are asked about once, whoever said which."""
    low, high = sorted((texts.index(one), texts.index(other)))
    return low, high


def _outcomes(judged: Judged, ours: Sequence[str], theirs: Sequence[str]) -> Floats:
    """[M, N] 1 where ours is preferred, 0 where theirs is, one half where neither is; NaN without a verdict."""
    texts, verdicts = _different(ours, theirs), dict(judged.verdicts())

    def of(one: str, other: str) -> float:
        if one == other:
            return 0.5
        pair = _pair(texts, one, other)
        if pair not in verdicts:
            return float("nan")
        preferred = verdicts[pair] if texts[pair[0]] == one else -verdicts[pair]
        return 0.5 + preferred / 2

    return np.array([[of(one, other) for other in theirs] for one in ours], dtype=np.float64)
