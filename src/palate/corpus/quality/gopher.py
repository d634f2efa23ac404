"""What is wrong with a document, by counting: Gopher's rules.

Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1 and table A1. They know no meaning: they find lists, menus, code,
boilerplate and text that repeats itself. A word is what stands between white space. Of the runs of words that repeat
the shortest and the longest of the paper are measured; what lies between falls with them.

Left out: perplexity under a reference model, classifiers, lists of words, languages told apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from palate.recipe import Quality
from palate.words import split_words

BULLETS = ("\u2022", "\u2023", "\u25e6", "\u25cf", "\u25aa", "-", "*")
ELLIPSES = ("...", "\u2026")
_SYMBOL = re.compile(r"#|\.\.\.|\u2026")


class Document:
    """A text, and its parts as the rules need them."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """Pieces between white space."""
        return self.text.split()

    @cached_property
    def runs(self) -> Runs:
        """Of its words."""
        return Runs(self.words)

    @cached_property
    def lines(self) -> list[str]:
        """Those that are not blank, without white space around them."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Parts between blank lines."""
        return [part.strip() for part in re.split(r"\n\s*\n", self.text) if part.strip()]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is measured, and which side of a threshold is wrong.

    Attributes:
        key: of `Quality`: the threshold.
        reason: what is wrong with a document beyond it.
        measure: a number of the document.
        at_least: less than the threshold is wrong, not more.
    """

    key: str
    reason: str
    measure: Callable[[Document, Quality], float]
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A document that is beyond a threshold: which, how far."""

    reason: str
    value: float
    limit: float


def share(parts: Sequence[str], is_so: Callable[[str], bool]) -> float:
    """Of the parts, those that are; 0 of none."""
    return sum(map(is_so, parts)) / len(parts) if parts else 0.0


def repeated(parts: Sequence[str]) -> tuple[float, float]:
    """Share of the parts that say what an earlier one says, and of the characters in them."""
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    characters = sum(map(len, parts))
    return len(again) / max(1, len(parts)), sum(map(len, again)) / max(1, characters)


class Runs:
    """The runs of n words of a text, by number: the same for runs that say the same.

    A run of n words is two shorter ones that follow each other, so a pair of their numbers tells it, and none is ever
    written out; in whole books that is what the rules take their time for.
    """

    def __init__(self, words: Sequence[str]) -> None:
        known: dict[str, int] = {}
        ones = np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int64)
        self.lengths = np.array([len(word) for word in words], dtype=np.int64)
        self._numbers = {1: ones}

    def of(self, n: int) -> NDArray[np.int64]:
        """[W - n + 1] numbers from 0, one for the run that begins at each of W words; none of fewer than n."""
        if n not in self._numbers:
            first, second = n - n // 2, n // 2
            begins, ends = self.of(first), self.of(second)[first:]
            pairs = begins[: len(ends)] * len(self.lengths) + ends
            self._numbers[n] = np.unique(pairs, return_inverse=True)[1]
        return self._numbers[n]


def in_top_ngram(runs: Runs, n: int) -> float:
    """Share of the characters in the commonest run of n words, if it is there twice; 0 otherwise."""
    numbers = runs.of(n)
    if not len(numbers):
        return 0.0
    counts = np.bincount(numbers)
    most = counts.max()
    ends = np.cumsum(runs.lengths)
    characters = ends[n - 1 :] - ends[: len(numbers)] + runs.lengths[: len(numbers)]
    longest = characters[counts[numbers] == most].max()
    return float(most * longest / ends[-1]) if most > 1 else 0.0


def in_repeated_ngrams(runs: Runs, n: int) -> float:
    """Share of the characters in words of runs of n that occur twice or more, each word counted once."""
    numbers = runs.of(n)
    if not len(numbers):
        return 0.0
    again = np.bincount(numbers)[numbers] > 1
    covered = np.convolve(again, np.ones(n, dtype=np.int64)) > 0  # [W]: some run that is there again holds the word
    return float(runs.lengths[covered].sum() / max(1, runs.lengths.sum()))


RULES = (
    Rule("min_words", "too few words", lambda d, _: len(d.words), at_least=True),
    Rule("max_words", "too many words", lambda d, _: len(d.words)),
    Rule(
        "min_word_length",
        "words too short on average",
        lambda d, _: sum(map(len, d.words)) / max(1, len(d.words)),
        at_least=True,
    ),
    Rule("max_word_length", "words too long on average", lambda d, _: sum(map(len, d.words)) / max(1, len(d.words))),
    Rule("max_symbols", "too many # or ...", lambda d, _: len(_SYMBOL.findall(d.text)) / max(1, len(d.words))),
    Rule("max_bullets", "lines are bullets", lambda d, _: share(d.lines, lambda line: line.startswith(BULLETS))),
    Rule("max_ellipses", "lines end in ...", lambda d, _: share(d.lines, lambda line: line.endswith(ELLIPSES))),
    Rule(
        "min_alphabetic",
        "too few words with letters",
        lambda d, _: share(d.words, lambda word: any(map(str.isalpha, word))),
        at_least=True,
    ),
    Rule(
        "min_stop_words",
        "too few stop words",
        lambda d, q: len({word.lower() for word in q.stop_words} & set(split_words(d.text))),
        at_least=True,
    ),
    Rule("max_repeated_lines", "lines repeat", lambda d, _: repeated(d.lines)[0]),
    Rule("max_repeated_paragraphs", "paragraphs repeat", lambda d, _: repeated(d.paragraphs)[0]),
    Rule("max_in_repeated_lines", "much of it in lines that repeat", lambda d, _: repeated(d.lines)[1]),
    Rule("max_in_repeated_paragraphs", "much of it in paragraphs that repeat", lambda d, _: repeated(d.paragraphs)[1]),
    Rule("max_in_top_2gram", "two words repeat", lambda d, _: in_top_ngram(d.runs, 2)),
    Rule("max_in_top_3gram", "three words repeat", lambda d, _: in_top_ngram(d.runs, 3)),
    Rule("max_in_top_4gram", "four words repeat", lambda d, _: in_top_ngram(d.runs, 4)),
    Rule("max_in_repeated_5grams", "runs of five words repeat", lambda d, _: in_repeated_ngrams(d.runs, 5)),
    Rule("max_in_repeated_10grams", "runs of ten words repeat", lambda d, _: in_repeated_ngrams(d.runs, 10)),
)


def failures(text: str, settings: Quality) -> Iterator[Failure]:
    """Every rule that a document breaks."""
    document = Document(text)
    for rule in RULES:
        value, limit = float(rule.measure(document, settings)), float(getattr(settings, rule.key))
        if value < limit if rule.at_least else value > limit:
            yield Failure(reason=rule.reason, value=value, limit=limit)
