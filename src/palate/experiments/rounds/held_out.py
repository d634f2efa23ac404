"""What a policy answers to the held-out prompts, kept with its scores, so that policies are compared prompt by prompt.

    answers.jsonl    a line for each prompt: the responses, how the judge scored each, and the KL to the first model

Every policy answers once, with the same random numbers; the first model's answers are kept as well, since all others
are compared with them (`stages/evaluate.py` has the same comparison as a command).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from palate import disk
from palate.corpus import read_prompts
from palate.evals.winrate import WinRate, compare_each, length_controlled, win_rate
from palate.intervals import Estimate, ratio_estimate
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import WinRateRecipe
from palate.records import Record
from palate.rewards.learned import MAX_TOKENS
from palate.rewards.mix import Mix
from palate.run.directory import Run
from palate.stages.common import deterministic, prompts_with_room, sharing
from palate.stages.evaluate import Answers, answers, divergence_by_prompt
from palate.words import count_words

Floats = NDArray[np.float64]


class Line(Record):
    """One prompt of the file.

    Attributes:
        responses, scores, ended: [M].
        kl: of the policy to the first model, k1 on these responses, mean nats per response.
    """

    prompt: str
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    ended: tuple[bool, ...]
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A policy's answers to P prompts, M each."""

    lines: tuple[Line, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From its file."""
        rows = path.read_text(encoding="utf-8").split("\n")[:-1]
        return cls(lines=tuple(Line.model_validate_json(row) for row in rows))

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        disk.write_text(path, "".join(line.model_dump_json() + "\n" for line in self.lines))

    @property
    def scores(self) -> Floats:
        """[P, M] by the judge."""
        return np.array([line.scores for line in self.lines], dtype=np.float64)

    @property
    def words(self) -> Floats:
        """[P, M] words of each response."""
        counted = [[float(count_words(text)) for text in line.responses] for line in self.lines]
        return np.array(counted, dtype=np.float64)

    @property
    def cut_off(self) -> float:
        """Share of responses without a stop token."""
        return float(1 - np.mean([line.ended for line in self.lines]))

    def kl(self, *, seed: int) -> Estimate:
        """Mean nats per response, with its interval by prompt."""
        return ratio_estimate([line.kl for line in self.lines], np.ones(len(self.lines)), seed=seed)

    def length(self, *, seed: int) -> Estimate:
        """Mean words per response, with its interval by prompt."""
        return ratio_estimate(self.words.mean(1), np.ones(len(self.lines)), seed=seed)

    def won(self, other: Kept) -> Floats:
        """[P] share of comparisons with the other's responses that were won, ties half."""
        found: Floats = compare_each(self.scores, other.scores).mean((1, 2))
        return found

    def win_rate(self, other: Kept, *, seed: int) -> WinRate:
        """Against another policy's answers."""
        return win_rate(self.scores, other.scores, seed=seed)

    def at_equal_length(self, other: Kept, *, seed: int) -> Estimate:
        """The win rate to expect if both wrote as much."""
        return length_controlled(self.scores, other.scores, self.words, other.words, seed=seed)


class Measuring:
    """Lets policies answer; judge and first model are in memory as long as it is.

    Args:
        recipe: its ``model`` stands for every policy, its ``baseline`` is the first model.
        run: told of prompts that are left out and of what is read.
    """

    def __init__(self, recipe: WinRateRecipe, run: Run) -> None:
        deterministic()
        self.recipe, self.max_tokens, settle = recipe, recipe.microbatch_tokens or MAX_TOKENS, sharing([])
        self.first = load_language_model(
            recipe.baseline, chat_template=recipe.baseline_chat_template, precision=recipe.precision, settle=settle
        )
        self.judge = Mix((recipe.judge,), precision=recipe.precision, max_tokens=self.max_tokens, settle=settle)
        run.add_inputs({"first model": self.first.weights})
        run.add_inputs({f"judge {name}": weights for name, weights in self.judge.hashes.items()})
        data = read_prompts(recipe.prompts)
        self.prompts = prompts_with_room(
            run,
            data,
            [self.first.chat],
            (self.first.model.context, "the first model's context"),
            max_new_tokens=recipe.sampling.max_new_tokens,
            max_left_out=recipe.max_left_out,
        ).prompts

    def first_answers(self) -> Kept:
        """Of the first model."""
        return self._kept(self.first)

    def answers(self, name: str) -> Kept:
        """Of the policy in a run's directory."""
        return self._kept(load_language_model(name, precision=self.recipe.precision))

    def _kept(self, policy: Loaded[LanguageModel]) -> Kept:
        found: Answers = answers(
            policy,
            self.prompts,
            self.judge,
            self.recipe.sampling,
            num_responses=self.recipe.responses_per_prompt,
            seed=self.recipe.seed,
        )
        divergence = divergence_by_prompt(
            found.rollout, self.first.model, num_prompts=len(self.prompts), max_tokens=self.max_tokens
        )
        ended, each = found.rollout.ended.tolist(), self.recipe.responses_per_prompt
        lines = []
        for place, prompt in enumerate(self.prompts):
            own = slice(place * each, (place + 1) * each)
            lines.append(
                Line(
                    prompt=prompt.text,
                    responses=found.texts[own],
                    scores=tuple(found.scores[place].tolist()),
                    ended=tuple(ended[own]),
                    kl=float(divergence[place]),
                )
            )
        return Kept(lines=tuple(lines))
