"""Does the list of patterns tell the answers that say they do not know? Real answers of SmolLM2-135M, read by a person.

The patterns were written with those marked `seen` at hand, and not changed for the others. What counts is that the
answer says of the question that it is not, or cannot be, known or answered by whoever speaks; not that a question is
old, or debated, or that somebody is sorry.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palate.corpus.mined.phrases import patterns, templates

LABELLED = [
    json.loads(line)
    for line in Path(__file__).with_name("labelled_by_hand.jsonl").read_text(encoding="utf-8").splitlines()
]
UNSURE = patterns("", "unsure.txt")


def counts(seen: bool) -> tuple[int, int, int, int]:
    """Told and said, told but not said, said but not told, neither."""
    rows = [(bool(UNSURE.find(row["text"])), row["says_so"]) for row in LABELLED if row["seen"] is seen]
    return tuple(rows.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))  # type: ignore[return-value]


def test_among_the_answers_that_it_was_written_with() -> None:
    """Precision 11 of 12, recall 11 of 12: one quotes the words, one is cut off within them."""
    assert counts(seen=True) == (11, 1, 1, 26)


def test_among_answers_that_it_was_not_written_for() -> None:
    """Precision 5 of 6, recall 5 of 7: "impossible to know everything" is an answer, and "remain unclear" is missed."""
    assert counts(seen=False) == (5, 1, 2, 19)


@pytest.mark.parametrize("text", templates("", "abstentions.txt", 0).texts)
def test_our_own_ways_to_say_so_are_told(text: str) -> None:
    assert UNSURE.find(text)
    assert UNSURE.find(f"Hm. {text} Ask somebody else.")
