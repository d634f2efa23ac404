"""An answer and a thumb for it: shaped like a demonstration, and none, since a thumb may be down.

    prompt, completion, label | instruction, input, output, kto_tag | messages, label | conversations, rating | ...

The thumb is in a column of one of `THUMBS` and in any of the words of `verdicts`.
"""

from __future__ import annotations

from collections.abc import Iterator

from palate.corpus.formats.demonstrations import PROMPT_RESPONSE_KEYS, answers_transcript
from palate.corpus.formats.sides import LABELERS, by_model, column_of, name_of
from palate.corpus.rows.fields import label, peek
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.turns import (
    answer,
    asked,
    conversation_of,
    history_of,
    instruction_prompt,
    prompt_of,
    response_of,
)
from palate.corpus.rows.values import Fields, value_of
from palate.corpus.rows.verdicts import is_thumb, thumb_of
from palate.records import Prompt, Ranking, Response

THUMBS = ("kto_tag", "label", "thumb", "thumbs", "rating", "feedback", "reaction", "desirable", "is_desirable", "liked")
_UP, _DOWN = 7.0, 1.0  # a thumb as a rating
_MODELS = ("model", "model_name", "model_id")
_DIALOGUES = ("messages", "conversations", "conversation")
_SHAPES = (
    *((name,) for name in _DIALOGUES),
    ("instruction", "context", "response"),
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("instruction", "output"),
    *PROMPT_RESPONSE_KEYS,
)


def thumb(prompt: Prompt, response: Response, up: bool, labeler: str = "") -> Ranking:
    """A thumb is a rating of one response."""
    rating = _UP if up else _DOWN
    return Ranking(prompt=prompt, responses=(response,), ranks=(1,), ratings=(rating,), labeler=labeler)


def columns(row: Fields) -> frozenset[str]:
    """The columns read here of a row with an answer and a thumb."""
    column, shape = column_of(row, THUMBS), _shape_of(row)
    if column is None or not shape or not is_thumb(peek(row, column)):
        return frozenset()
    more = (column_of(row, names) for names in (LABELERS, _MODELS))
    return frozenset({*shape, column, *filter(None, more)})


def thumbs(row: Fields) -> Iterator[Ranking]:
    """One thumb: for the answer, or for the last of a dialogue."""
    column = column_of(row, THUMBS)
    if column is None:
        raise Malformed(f"no thumb: no column called {', '.join(THUMBS)}")
    up = thumb_of(value_of(row, column), label(row, column))
    prompt, response = _answered(row)
    labeler, model = column_of(row, LABELERS), column_of(row, _MODELS)
    response = by_model(response, name_of(row[model]) if model else "")
    yield thumb(prompt, response, up, name_of(row[labeler]) if labeler else "")


def _shape_of(row: Fields) -> tuple[str, ...]:
    return next((shape for shape in _SHAPES if all(name in row for name in shape)), ())


def _answered(row: Fields) -> tuple[Prompt, Response]:
    shape = _shape_of(row)
    if not shape:
        raise Malformed("a thumb without an answer")
    if shape[0] in _DIALOGUES:
        return _last_turn(row, shape[0])
    question, last = shape[0], shape[-1]
    if question == "instruction":
        prompt = instruction_prompt(row, context="context" if "context" in shape else "input")
    else:
        prompt = prompt_of(row, question)
    return prompt, response_of(value_of(row, last), label(row, last), strip=answers_transcript(row, question))


def _last_turn(row: Fields, dialogue: str) -> tuple[Prompt, Response]:
    turns = conversation_of(row, dialogue)
    if not turns or turns[-1].role != "assistant":
        raise Unusable(f"a dialogue in {label(row, dialogue)!r} that does not end with the assistant's turn")
    return asked(row, (*history_of(row), *turns[:-1]), label(row, dialogue)), answer(turns[-1])
