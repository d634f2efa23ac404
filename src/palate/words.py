"""What counts as a word, a repetition, an odd character and a finished sentence.

One definition for tastes, rules and reports, so that "twenty words" means the same everywhere. A word is what stands
between white space. Tokens are left out on purpose: two models with different tokenizers must be comparable.
"""

from __future__ import annotations

import re
from itertools import pairwise

_ODD = re.compile(r"[^\w\s.,;:!?'\"()\-\u2013\u2014\u2018\u2019\u201c\u201d\u2026%$&/]|_")
_FINISHED = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u2019\u201d\u00bb)\]*_]*\s*\Z")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without the punctuation around them; pure punctuation is no word."""
    stripped = (word if word.isalnum() else _bare(word) for word in text.lower().split())
    return [word for word in stripped if word]


def count_words(text: str) -> int:
    """Pieces between white space: what a word processor would count."""
    return len(text.split())


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n consecutive words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def repeated_share(words: list[str], n: int) -> float:
    """Share of the runs of n words that occurred before in the same text; 0 for a text shorter than n."""
    runs = ngrams(words, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def is_finished(text: str) -> bool:
    """Whether the text ends a sentence: a full stop, question or exclamation mark, then at most closing marks."""
    return _FINISHED.search(text) is not None


def stutter_share(words: list[str]) -> float:
    """Share of the words that repeat the word before."""
    return sum(word == before for before, word in pairwise(words)) / len(words) if words else 0.0


def odd_share(text: str) -> float:
    """Share of the characters that are neither letters, digits, white space nor the punctuation of plain prose."""
    return len(_ODD.findall(text)) / len(text) if text else 0.0


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and not word[end - 1].isalnum():
        end -= 1
    return word[start:end]
