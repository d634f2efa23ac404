"""Whose response is the better one: the share of comparisons that the model wins against the baseline, ties half.

Either both respond to prompts, and the recipe's judge scores each response by itself or, being a model elsewhere,
compares every two in both orders; or judgements are there already: a file of rankings, by people, or by `palate judge`.
A prompt counts once. The rate is compared with one half, what a model has against itself.

Two readings at equal length stand beside it (`evals/winrate.py`, `evals/alpaca_length.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from palate.corpus import read_prompts, read_rankings
from palate.errors import DataError
from palate.evals.protocols.items import Item, Measure, Protocol, Said, Scores
from palate.evals.winrate import compare_each
from palate.intervals import Floats
from palate.recipe import Data
from palate.records import Ranking
from palate.words import count_words

WON = (
    Measure(name="won", label="win rate", better="higher", compared=True),
    Measure(name="tied", label="ties", better="neither"),
)
EVEN: Scores = {"won": 0.5, "tied": 0.0}
"""What a model has against itself, with ties half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """The comparisons of one prompt, [C] each.

    Attributes:
        outcomes: 1 won, 0 lost, one half tied.
        more_words, more_characters: of the model's response than of the baseline's.
    """

    outcomes: Floats
    more_words: Floats
    more_characters: Floats

    @property
    def scores(self) -> Scores:
        """Of the prompt."""
        return {"won": float(self.outcomes.mean()), "tied": float((self.outcomes == 0.5).mean())}


def duel(ours: Sequence[str], theirs: Sequence[str], our_scores: Floats, their_scores: Floats) -> Duel:
    """Every response of the one against every one of the other, by a judge's scores of each."""
    return met(ours, theirs, compare_each(our_scores[None], their_scores[None])[0])


def met(ours: Sequence[str], theirs: Sequence[str], outcomes: Floats) -> Duel:
    """Of responses [M] and [N] and what came of their comparisons [M, N]; those that have no outcome (NaN) are none."""
    flat, known = outcomes.ravel(), ~np.isnan(outcomes.ravel())
    words = _more([count_words(text) for text in ours], [count_words(text) for text in theirs])
    characters = _more(list(map(len, ours)), list(map(len, theirs)))
    return Duel(outcomes=flat[known], more_words=words[known], more_characters=characters[known])


def _more(ours: Sequence[int], theirs: Sequence[int]) -> Floats:
    found: Floats = np.subtract.outer(np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)).ravel()
    return found


def judged_duels(rankings: Sequence[Ranking], model: str, baseline: str) -> dict[str, Duel]:
    """By prompt, of judgements in which responses of both are.

    Args:
        model, baseline: hashes of their weights, as they stand in the responses' provenance.

    Raises:
        DataError: there are none.
    """
    found: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
    for ranking in rankings:
        made = ["" if each.provenance is None else each.provenance.checkpoint for each in ranking.responses]
        for mine in (place for place, name in enumerate(made) if name == model):
            for other in (place for place, name in enumerate(made) if name == baseline):
                ours, theirs = ranking.responses[mine].text, ranking.responses[other].text
                ahead = ranking.ranks[other] - ranking.ranks[mine]
                outcome = 0.5 + 0.5 * float(np.sign(ahead))
                words = count_words(ours) - count_words(theirs)
                found[ranking.prompt.id].append((outcome, words, len(ours) - len(theirs)))
    if not found:
        raise DataError(
            "no judgement in it compares a response of the model with one of the baseline (by the hashes of their "
            "weights): let both answer with `palate sample`, and have those ranked"
        )
    return {
        prompt: Duel(outcomes=columns[0], more_words=columns[1], more_characters=columns[2])
        for prompt, rows in found.items()
        for columns in [np.array(rows, dtype=np.float64).T]
    }


def rankings_of(path: Path) -> Sequence[Ranking]:
    """Of a file of judgements."""
    return read_rankings(Data(path=str(path))).records


def _unjudged(answers: Sequence[Said]) -> Scores:
    """Nothing: a judge says it."""
    return {}


def _read_prompts(path: Path) -> Sequence[Item]:
    return [Item(asked=(prompt,), score=_unjudged) for prompt in read_prompts(Data(path=str(path))).records]


WINS: dict[str, Protocol] = {
    "win_rate": Protocol(
        title="Win rate",
        about="Both respond to prompts; every response of one meets every one of the other, and the recipe's judge "
        "scores each by itself, or compares the two in both orders. Compared with one half.",
        read=_read_prompts,
        asks="prompts",
        measures=WON,
        quick=24,
        as_in="form",
    ),
    "judgements": Protocol(
        title="Judgements",
        about="Rankings of responses of both models that are there already, by people or by a model. A prompt counts "
        "once, whoever judged it and how often. Compared with one half.",
        read=lambda path: [],
        asks="nothing",
        measures=WON,
        quick=0,
    ),
}
"""Judgements are read when the models' hashes are known (`stages.measuring.card_judges.py`)."""
