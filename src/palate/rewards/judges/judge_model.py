"""What is asked of a model that judges and writes, wherever it runs, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from palate.records import Prompt, Response
from palate.rewards.judges.questions import LETTERS, letter_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a model said when it was asked which of two answers is better.

    Attributes:
        first: how much of it was for the one shown first, from 0 to 1; None where it chose neither.
        reason: why there is none.
    """

    first: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaning:
    """How far a model says Yes rather than No.

    Attributes:
        log_odds: log p(Yes) - log p(No); None where it says neither.
        reason: why there is none.
    """

    log_odds: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a model wrote.

    Attributes:
        response: None where the prompt was not taken.
        reason: why it was not.
    """

    response: Response | None
    reason: str = ""


class JudgeModel(Protocol):
    """Chooses between answers and writes text."""

    def choose(self, questions: Sequence[Prompt]) -> list[Choice]:
        """What it says to each of `questions.question`."""
        ...

    def lean(self, questions: Sequence[Prompt]) -> list[Leaning]:
        """How far it says Yes to each of `questions.whether`."""
        ...

    def write(self, prompts: Sequence[Prompt], *, purpose: str) -> list[Written]:
        """Its response to each prompt, by random numbers of their own for each purpose."""
        ...

    def used(self) -> dict[str, int]:
        """What that has cost so far, by name; nothing where nobody counts."""
        ...


def by_majority(texts: Sequence[str]) -> Choice:
    """Of the written answers to one question those that choose, each as much as another."""
    letters = [letter for letter in map(letter_in, texts) if letter]
    if not letters:
        return Choice(first=None, reason="no letter in the answer")
    return Choice(first=letters.count(LETTERS[0]) / len(letters))
