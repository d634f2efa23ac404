"""Does a model say that it does not know where it does not, and does it still say what it knew?

Each response to a question is one of three things: right, unsure (it says that it does not know), or neither, which is
wrong said with confidence. Some questions have no answer; there nothing is right, and to be unsure is what is wanted.

    precision, recall, f1       of being unsure as the sign of a question without an answer (Yin et al. 2023, arXiv
                                2305.18153, who tell by sentence embeddings what we tell by patterns)
    confident_wrong             neither right nor unsure, of all responses
    right, unsure_answerable    of the responses to questions with an answer
    right_when_answering        right, of those to such questions that are not unsure; to abstain at random leaves it
                                where it was
    kept, withheld              of what the model before had right: right still, and unsure now

A model that is unsure of everything has `f1_of_always`: no F1 means anything without it. What the model before had
right by luck is not kept, whatever was learned: compare at a temperature near 0, where a model answers the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palate.errors import DataError
from palate.intervals import Estimate, Floats, bootstrap, ratio_estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of Q questions.

    Attributes:
        right: [Q] share of its responses that are right; 0 of a question without an answer.
        unsure: [Q] share that say that they do not know, and are not right.
        answerable: [Q] whether it has an answer.
    """

    right: Floats
    unsure: Floats
    answerable: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not self.right.shape == self.unsure.shape == self.answerable.shape == (len(self.right),):
            raise DataError("there must be one share right, one unsure and one mark for each question")
        if self.right[~self.answerable].any():
            raise DataError("nothing is right about a question without an answer")

    @property
    def wrong(self) -> Floats:
        """[Q] neither right nor unsure."""
        return 1 - self.right - self.unsure

    @property
    def known(self) -> Floats:
        """[Q] 1 where there is an answer."""
        return self.answerable.astype(np.float64)

    @property
    def unknown(self) -> Floats:
        """[Q] 1 where there is none."""
        return 1 - self.known


_Parts = tuple[Floats, Floats]
"""[Q] each: a measure is the sum of the first over the sum of the second."""

MEASURES: Mapping[str, Callable[[Answered], _Parts]] = {
    "f1": lambda found: (2 * found.unsure * found.unknown, found.unsure + found.unknown),
    "precision": lambda found: (found.unsure * found.unknown, found.unsure),
    "recall": lambda found: (found.unsure * found.unknown, found.unknown),
    "confident_wrong": lambda found: (found.wrong, np.ones(len(found.right))),
    "right": lambda found: (found.right, found.known),
    "unsure_answerable": lambda found: (found.unsure * found.known, found.known),
    "right_when_answering": lambda found: (found.right, (1 - found.unsure) * found.known),
}
"""Of one model; by question."""

_MEASURES_BESIDE: Mapping[str, Callable[[Answered, Answered], _Parts]] = {
    "kept": lambda before, after: (before.right * after.right, before.right),
    "withheld": lambda before, after: (before.right * after.unsure, before.right),
}


def abstention(found: Answered, *, seed: int) -> dict[str, Estimate]:
    """Every measure, with its interval by question; None where there is nothing that it could be a share of."""
    shares = {name: ratio_estimate(*parts(found), seed=seed, share=True) for name, parts in MEASURES.items()}
    always = Answered(right=0 * found.right, unsure=np.ones(len(found.right)), answerable=found.answerable)
    return shares | {"f1_of_always": Estimate(_ratio(*MEASURES["f1"](always), np.ones(len(found.right))))}


def abstention_beside(before: Answered, after: Answered, *, seed: int) -> dict[str, Estimate]:
    """What was kept of what was known, and what is withheld now; both answered the same questions."""
    _check_same(before, after)
    return {
        name: ratio_estimate(*parts(before, after), seed=seed, share=True) for name, parts in _MEASURES_BESIDE.items()
    }


def abstention_changes(before: Answered, after: Answered, *, seed: int) -> dict[str, Estimate]:
    """Every measure after less the one before, the same questions drawn for both."""
    _check_same(before, after)
    return {name: _change(parts(before), parts(after), seed) for name, parts in MEASURES.items()}


def _change(before: _Parts, after: _Parts, seed: int) -> Estimate:
    def difference(weights: Floats) -> float | None:
        one, other = _ratio(*before, weights), _ratio(*after, weights)
        return None if one is None or other is None else other - one

    return bootstrap(difference, len(before[0]), seed=seed, least=-1.0, most=1.0)


def _ratio(above: Floats, below: Floats, weights: Floats) -> float | None:
    total = float(below @ weights)
    return float(above @ weights) / total if total > 0 else None


def _check_same(before: Answered, after: Answered) -> None:
    if not np.array_equal(before.answerable, after.answerable):
        raise DataError("both models must have answered the same questions, in the same order")
