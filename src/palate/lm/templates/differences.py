"""What is different between a conversation as we lay it out and as the model's own template does, in words.

Two small conversations are laid out both ways, one of them with thoughts, and what is in one text alone is shown. A
difference is no mistake: training, sampling and scoring agree with each other. It says what a model that is served with
its own template will see otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from palate.errors import TemplateError
from palate.lm.templates.layout import BREAK, PROBE, Layout
from palate.records import Message

_THOUGHTFUL = tuple(
    turn.model_copy(update={"content": f"<think>\nA moment.\n</think>\n\n{turn.content}"})
    if turn.role == "assistant"
    else turn
    for turn in PROBE
)


def differences(layout: Layout, *, merges: bool) -> tuple[str, ...]:
    """A line for each; none if there are none.

    Args:
        layout: of a template.
        merges: the tokenizer makes other tokens of the whole text than of its parts.
    """
    lines = [line for probe in (PROBE, _THOUGHTFUL) for line in _texts(layout, probe)]
    if layout.header:
        lines.append(f"the chat template does not open the assistant's turn: {layout.header!r} is put there")
    if layout.writes_dates:
        lines.append("the chat template writes today's date into prompts, which change from day to day")
    if merges and not lines:
        lines.append("the tokenizer would merge characters across the border of a prompt and its response: kept apart")
    return tuple(dict.fromkeys(lines))


def _texts(layout: Layout, messages: Sequence[Message]) -> Iterator[str]:
    try:
        own, ours = layout.own(messages).replace(BREAK, ""), _ours(layout, messages)
    except TemplateError:  # thoughts are not for every template
        return
    theirs, parts = _words(own), _words(ours)
    for kind, a, b, c, d in SequenceMatcher(None, theirs, parts, autojunk=False).get_opcodes():
        alone, here = "".join(theirs[a:b]), "".join(parts[c:d])
        if kind == "delete":
            yield f"the model's own rendering has {alone!r} before {_next(theirs, b)!r}, which is left out here"
        elif kind == "insert":
            yield f"the model's own rendering leaves out {here!r} before {_next(parts, d)!r}, which is kept here"
        elif kind == "replace":
            yield f"the model's own rendering has {alone!r} where {here!r} is kept here"


def _ours(layout: Layout, messages: Sequence[Message]) -> str:
    parts = [turn.before + (turn.said or "") + layout.stop for turn in layout.turns(messages)]
    return "".join(parts).replace(BREAK, "")


def _words(text: str) -> list[str]:
    """Words, blanks and tags, so that what is shown is not cut within them."""
    return re.findall(r"</?\w+>|<[^<>\s]*>|\[/?\w+\]|\w+|\s+|.", text)


def _next(words: Sequence[str], place: int) -> str:
    return "".join(words[place : place + 3]).strip()
