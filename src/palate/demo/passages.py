"""Prompts and demonstrations out of plain text: a sentence, and the one that follows it.

A model of a few million weights has no knowledge to answer from, but it can go on with a tale. So a prompt is a
sentence of a document, and what a demonstration shows is the next sentence of the same paragraph; nobody writes it.
Sentences are told apart by what ends one and a capital after it, which is English and often wrong in dialogue.

Left out: longer openings, and openings that a document begins with only, of which there are too few.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from palate.randomness import permutation
from palate.records import Demonstration, Prompt, Response
from palate.words import count_words, is_finished, odd_share, split_words

ASK = "Tell on: "
"""Before the opening; what a prompt is told by."""
FEWEST, MOST = 5, 20
"""Words of an opening, and of what follows."""
SUBJECTS = 3
"""Words of an opening that its continuation may name: the longest."""

_SENTENCE = re.compile(
    r".+?(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)[.!?][\"'\u2019\u201d)]*(?=\s+[\"'\u2018\u201c(]*[A-Z]|$)"
)
_BLANK_LINE = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Two sentences that follow each other in a document."""

    opening: str
    continuation: str

    def prompt(self) -> Prompt:
        """Asks to go on; tagged with what the opening is about."""
        longest = sorted(dict.fromkeys(split_words(self.opening)), key=len, reverse=True)[:SUBJECTS]
        return Prompt.from_text(ASK + self.opening, tags={"subject": " ".join(longest)})

    def demonstration(self) -> Demonstration:
        """Goes on as the document does."""
        return Demonstration(prompt=self.prompt(), response=Response(text=self.continuation), author="the text itself")


def passages(text: str) -> Iterator[Passage]:
    """All of a document, none of which shares a sentence with another."""
    for paragraph in _BLANK_LINE.split(text):
        sentences = _SENTENCE.findall(" ".join(paragraph.split()))
        place = 0
        while place + 1 < len(sentences):
            opening, continuation = sentences[place : place + 2]
            if _is_plain(opening) and _is_plain(continuation):
                yield Passage(opening=opening.strip(), continuation=continuation.strip())
                place += 1
            place += 1


def drawn(texts: Sequence[str], *, most: int, seed: int) -> list[Passage]:
    """At most so many passages of each document, so that no book outweighs the tales; each opening once.

    The order, and which of a long document's there are, follow from the seed.
    """
    found: dict[str, Passage] = {}
    for number, text in enumerate(texts):
        all_of_it = list(passages(text))
        order = permutation(len(all_of_it), seed, "passages", number)[:most]
        found |= {all_of_it[place].opening: all_of_it[place] for place in order}
    mixed = list(found.values())
    return [mixed[place] for place in permutation(len(mixed), seed, "passages")]


def _is_plain(sentence: str) -> bool:
    return FEWEST <= count_words(sentence) <= MOST and is_finished(sentence) and not odd_share(sentence)
