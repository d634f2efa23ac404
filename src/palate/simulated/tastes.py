"""Hidden tastes: what simulated labelers like, and what training is never shown.

A taste is a judge of ``(prompts, responses) -> [B]`` scores; the higher the better. It plays two parts: simulated
labelers perceive it through noise, and at the end it says whether the trained model really pleases more.

``sunny_and_to_the_point`` is the default. With w words, the score of a response is ::

    warmth + point - length - broken

    warmth  tanh(1.5 c)                        c: VADER's compound sentiment in [-1, 1]
    point   0.5 [names the subject]
    length  0.2 softplus((w - 18) / 2) + 0.4 softplus((7 - w) / 2)
    broken  0.5 [unfinished] + 2 r1 + 2 r3 + max(0, d - 0.4) + 2 max(0, s - 0.05), at most 1.5

so it likes a warm, complete answer of 7 to 18 words that speaks of what was asked. ``[names the subject]`` is
1 if a word begins with the same four letters as a word of the prompt's tag ``subject`` (words of one or two letters
aside); a prompt without that tag has no point to come to. Sentiment is read from the lower-cased words alone, with
every emotional word counted once and exclamation marks taken as full stops, since otherwise the best answer would be a
heap of praise. ``[unfinished]`` is 1 if the text does not end a sentence, r1 the share of words that repeat the word
before, r3 the share of three-word runs seen before, d the share of words that carry a sentiment, s the share of
characters that are neither letters, digits nor ordinary punctuation. A response without a word scores -2, all of it for
being broken.

A taste ``NAME`` may say what its scores are made of: ``parts_of_NAME`` beside it gives the same responses' parts by
name, [B] each, which add up to the score (what is taken off is negative). Reports then show which part was learned.

VADER: Hutto and Gilbert 2014, a lexicon with rules; it knows English only. Left out: whether an answer is true, or
follows from the question; that would need a model to judge.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from palate.errors import RecipeError
from palate.records import Prompt
from palate.words import count_words, is_finished, odd_share, repeated_share, split_words, stutter_share

Floats = NDArray[np.float64]
Judge = Callable[[Sequence[Prompt], Sequence[str]], Floats]

_PARTS = ("warmth", "point", "length", "broken")
_EMPTY_SCORE = -2.0
_POINT = 0.5
_STEM = 4
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[.,;:!?]")


def sunny_and_to_the_point(prompts: Sequence[Prompt], responses: Sequence[str]) -> Floats:
    """Warm, about the subject, one sentence long, complete and fluent; the formula is at the top of this file."""
    total: Floats = np.sum(list(parts_of_sunny_and_to_the_point(prompts, responses).values()), axis=0)
    return total


def parts_of_sunny_and_to_the_point(prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, Floats]:
    """What each part adds to the score, [B]; the sum over parts is the score itself."""
    rows = [_parts(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
    columns = np.array(rows, dtype=np.float64).reshape(-1, len(_PARTS)).T
    return dict(zip(_PARTS, columns, strict=True))


def short(prompts: Sequence[Prompt], responses: Sequence[str]) -> Floats:
    """Minus the number of words, in tens: the simplest taste there is, for tests."""
    return np.array([-count_words(text) / 10 for text in responses], dtype=np.float64)


_MOVED = {"palate.feedback.tastes": "palate.simulated.tastes"}
"""Where recipes written for an earlier version find what they name."""


def load_judge(reference: str) -> Judge:
    """The function that ``package.module:name`` stands for.

    Raises:
        RecipeError: it does not have that form, or there is no such function.
    """
    module_name, colon, name = reference.partition(":")
    module_name = _MOVED.get(module_name, module_name)
    if not (module_name and colon and name):
        raise RecipeError(f"{reference!r}: write a judge as package.module:name")
    if os.getcwd() not in sys.path:  # a function of the user's own, beside the recipe; never before installed packages
        sys.path.append(os.getcwd())
    try:
        judge = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # whatever a user's file does when it is read
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise RecipeError(f"{reference!r}: no such judge ({said})") from None
    if not callable(judge):
        raise RecipeError(f"{reference!r} is not a function of (prompts, responses)")
    return cast(Judge, judge)


def _parts(prompt: Prompt, text: str) -> tuple[float, float, float, float]:
    """In the order of `_PARTS`."""
    words = split_words(text)
    if not words:
        return 0.0, 0.0, 0.0, _EMPTY_SCORE
    point = _POINT * _names_subject(prompt, words)
    return _warmth(text), point, -_length_penalty(len(words)), -_brokenness(text, words)


def _names_subject(prompt: Prompt, words: list[str]) -> bool:
    stems = {word[:_STEM] for word in split_words(prompt.tags.get("subject", "")) if len(word) > 2}
    return any(word[:_STEM] in stems for word in words)


def _warmth(text: str) -> float:
    return math.tanh(1.5 * float(_analyzer().polarity_scores(_sober(text))["compound"]))


def _length_penalty(num_words: int) -> float:
    return 0.2 * float(np.logaddexp(0, (num_words - 18) / 2)) + 0.4 * float(np.logaddexp(0, (7 - num_words) / 2))


def _brokenness(text: str, words: list[str]) -> float:
    lexicon = _analyzer().lexicon
    emotional = sum(word in lexicon for word in words) / len(words)
    unfinished = 0.0 if is_finished(text) else 0.5
    repetition = 2 * stutter_share(words) + 2 * repeated_share(words, 3)
    return min(1.5, unfinished + repetition + max(0.0, emotional - 0.4) + 2 * max(0.0, odd_share(text) - 0.05))


def _sober(text: str) -> str:
    """The text as sentiment is read from it: no shouting, no emoji, every emotional word once."""
    lexicon, seen, kept = _analyzer().lexicon, set[str](), list[str]()
    for token in _TOKEN.findall(text.lower().replace("!", ".")):
        if token in lexicon and token in seen:
            continue
        seen.add(token)
        kept.append(token)
    return " ".join(kept)


@cache
def _analyzer() -> Any:
    """VADER reads its lexicon of 7,500 words once."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
