"""How a pair of answers becomes a question, and how a written answer to it is read.

Answers are other models' text, and might hold a heading or an order to whoever reads them. So every line of theirs is
quoted, and no line of theirs can look like one of the question's. That does not keep a model from believing what it is
told there.
"""

from __future__ import annotations

import re

from palate.recipe import Principle
from palate.records import Message, Prompt

LETTERS = ("A", "B")
"""What the answer shown first is called, and the second."""

WORDS = ("Yes", "No")
"""What is answered to a question about one answer."""

_THOUGHT = re.compile(r"\A.*</think>", re.DOTALL)
_ALONE = re.compile(r"\W*([AB])(?=[^\w\s']|[^\S\n]*(?:\n|\Z))")
_NAMED = re.compile(r"(?i:\b(?:response|answer|option)\b\W{0,4}(?:is\b\W{0,4})?)([AB])\b")


def question(prompt: Prompt, answers: tuple[str, str], principle: Principle) -> Prompt:
    """Which of two answers to a prompt is to be preferred by a principle; the first of them is called A."""
    shown = "\n\n".join(f"Answer {letter}:\n{quoted(text)}" for letter, text in zip(LETTERS, answers, strict=True))
    return Prompt.from_text(
        "Below are a conversation and two answers to its last turn. Every line of them is quoted.\n\n"
        f"{conversation(prompt.messages)}\n\n{shown}\n\n{principle.compare}\n"
        f"Reply with one letter alone, {' or '.join(LETTERS)}."
    )


def whether(prompt: Prompt, answer: str, principle: str) -> Prompt:
    """Whether an answer to a prompt follows a principle."""
    return Prompt.from_text(
        "Below are a conversation and an answer to its last turn. Every line of them is quoted.\n\n"
        f"{conversation(prompt.messages)}\n\nAnswer:\n{quoted(answer)}\n\n"
        f"Does the answer follow this principle?\n{quoted(principle)}\n"
        f"Reply with one word alone, {' or '.join(WORDS)}."
    )


def conversation(messages: tuple[Message, ...]) -> str:
    """Turn by turn."""
    return "\n\n".join(f"Turn of the {turn.role}:\n{quoted(turn.content)}" for turn in messages)


def quoted(text: str) -> str:
    """Every line with a mark before it."""
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def letter_in(text: str) -> str:
    """The letter that a written answer chooses; empty if it chooses none.

    It stands alone at the beginning (``B``, ``**A**``, ``A. Because ...``), or else is the only one that is named
    (``I prefer answer B``); what was thought before does not count, and "A" as an article is no choice.
    """
    said = _THOUGHT.sub("", text)
    if alone := _ALONE.match(said):
        return alone[1]
    named = set(_NAMED.findall(said))
    return named.pop() if len(named) == 1 else ""
