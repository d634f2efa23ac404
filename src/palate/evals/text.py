"""Cheap signals of fluency: a policy that learned to please the reward model and forgot to write shows up here.

They need no model. Distinct-n is Li et al. 2016: different runs of n words over all runs, across all responses. It
falls as there is more text, so compare only sets of the same size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from palate.errors import DataError
from palate.words import count_words, is_finished, ngrams, odd_share, repeated_share, split_words, stutter_share


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSignals:
    """Of a set of responses; all shares are in [0, 1].

    Attributes:
        mean_words: mean length.
        distinct_1, distinct_2: different words and word pairs over all of them; 0 without any.
        repeated_3: mean share of three-word runs that occurred before in the same response.
        finished: share that end a sentence.
        under_four_words: share that is hardly an answer.
        empty: share without a word.
        duplicates: share whose exact text another response has too.
    """

    mean_words: float
    distinct_1: float
    distinct_2: float
    repeated_3: float
    finished: float
    under_four_words: float
    empty: float
    duplicates: float

    def as_metrics(self, prefix: str = "text/") -> dict[str, float]:
        """Ready for a run's metrics."""
        return {prefix + name: value for name, value in asdict(self).items()}


def text_signals(responses: Sequence[str]) -> TextSignals:
    """Signals of responses that were sampled alike."""
    if not responses:
        raise DataError("there are no responses to look at")
    words = [split_words(text) for text in responses]
    means = {name: float(values.mean()) for name, values in signals_of_each(responses).items()}
    return TextSignals(**means, distinct_1=_distinct(words, 1), distinct_2=_distinct(words, 2))


def signals_of_each(responses: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """[B] of every signal that a response has by itself, or among the others; their means are those of the set."""
    words = [split_words(text) for text in responses]
    occurrences = Counter(responses)
    found: dict[str, Sequence[float]] = {
        "mean_words": [count_words(text) for text in responses],
        "repeated_3": [repeated_share(each, 3) for each in words],
        "finished": [is_finished(text) for text in responses],
        "under_four_words": [len(each) < 4 for each in words],
        "empty": [not each for each in words],
        "duplicates": [occurrences[text] > 1 for text in responses],
    }
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def self_bleu(responses: Sequence[str]) -> float:
    """How much the responses to one prompt say the same (Zhu et al. 2018, arXiv 1802.01886): 0 nothing, 1 all of it.

    The mean over responses of BLEU-4 against all others as references: the geometric mean of the shares of its runs of
    one to four words that another has as often, with one added above and below for runs of two and more (Lin and Och
    2004), times the brevity penalty. A single response has nothing to be like: 0.
    """
    if len(responses) < 2:
        return 0.0
    words = [split_words(text) for text in responses]
    counts = [[Counter(ngrams(each, n)) for n in range(1, 5)] for each in words]
    return sum(
        _bleu(
            counts[place],
            [count for other, count in enumerate(counts) if other != place],
            len(words[place]),
            min(
                (len(each) for other, each in enumerate(words) if other != place),
                key=lambda n: abs(n - len(words[place])),
            ),
        )
        for place in range(len(words))
    ) / len(words)


def _bleu(
    own: Sequence[Counter[tuple[str, ...]]],
    others: Sequence[Sequence[Counter[tuple[str, ...]]]],
    length: int,
    nearest: int,
) -> float:
    """Of one response against the others; ``nearest`` is the length of the one that is as long as it, or nearly."""
    logs = 0.0
    for n, runs in enumerate(own):
        shared = sum(min(count, max(other[n][run] for other in others)) for run, count in runs.items())
        added = 0 if n == 0 else 1
        if not shared + added:
            return 0.0
        logs += math.log((shared + added) / (sum(runs.values()) + added)) / len(own)
    return math.exp(logs + min(0.0, 1 - nearest / length)) if length else 0.0


def is_clean(text: str, *, min_words: int = 3) -> bool:
    """Whether a response is fit to be a demonstration: finished, without repetition, stutter or odd characters."""
    words = split_words(text)
    fluent = repeated_share(words, 3) == 0 and stutter_share(words) == 0 and odd_share(text) <= 0.02
    return len(words) >= min_words and is_finished(text) and fluent


def _distinct(words: Sequence[list[str]], n: int) -> float:
    runs = [run for each in words for run in ngrams(each, n)]
    return len(set(runs)) / len(runs) if runs else 0.0
