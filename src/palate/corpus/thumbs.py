"""An answer and a thumb for it: shaped like a demonstration, and none, since a thumb may be down.

    prompt, completion, label | instruction, input, output, kto_tag | messages, label | conversations, rating | ...

The thumb is in a column of one of `THUMBS` and in any of the words of `verdicts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from palate.corpus.demonstrations import PROMPT_RESPONSE_KEYS, alpaca, dolly, prompt_response
from palate.corpus.rejections import Malformed, Unusable
from palate.corpus.sides import LABELERS, column_of, name_of
from palate.corpus.values import (
    Fields,
    list_of,
    messages_of,
    optional_text,
    prompt_of_messages,
    response_of_value,
    with_system,
)
from palate.corpus.verdicts import is_thumb, thumb_of
from palate.records import Prompt, Ranking, Response

THUMBS = ("kto_tag", "label", "thumb", "thumbs", "rating", "feedback", "reaction", "desirable", "is_desirable", "liked")
_UP, _DOWN = 7.0, 1.0  # a thumb as a rating
_MODELS = ("model", "model_name", "model_id")
_DIALOGUES = ("messages", "conversations", "conversation")
_SHAPES = (
    *({name} for name in _DIALOGUES),
    {"instruction", "context", "response"},
    {"instruction", "output"},
    {"instruction", "input", "response"},
    *(set(keys) for keys in PROMPT_RESPONSE_KEYS),
)


def thumb(prompt: Prompt, response: Response, up: bool, labeler: str = "") -> Ranking:
    """A thumb is a rating of one response."""
    return Ranking(prompt=prompt, responses=(response,), ranks=(1,), ratings=(_UP if up else _DOWN,), labeler=labeler)


def columns(row: Fields) -> frozenset[str]:
    """The columns read here of a row with an answer and a thumb."""
    column = column_of(row, THUMBS)
    shape = next((shape for shape in _SHAPES if shape <= row.keys()), None)
    if column is None or shape is None or not is_thumb(row[column]):
        return frozenset()
    extra = {"input", "system", "history"} & row.keys()
    more = (column_of(row, names) for names in (LABELERS, _MODELS))
    return frozenset({*shape, *extra, column, *filter(None, more)})


def thumbs(row: Fields) -> Iterator[Ranking]:
    """One thumb: for the answer, or for the last of a dialogue."""
    column = column_of(row, THUMBS)
    if column is None:
        raise Malformed(f"no thumb: no column called {', '.join(THUMBS)}")
    up = thumb_of(row[column], column)
    prompt, response = _answered(row)
    labeler, model = column_of(row, LABELERS), column_of(row, _MODELS)
    if model:
        response = response_of_value(response.text, "response", model=name_of(row[model]))
    yield thumb(prompt, response, up, name_of(row[labeler]) if labeler else "")


def _answered(row: Fields) -> tuple[Prompt, Response]:
    key = next((name for name in _DIALOGUES if name in row), None)
    if key is not None:
        turns = with_system(optional_text(row, "system"), messages_of(list_of(row, key), key))
        if not turns or turns[-1].role != "assistant":
            raise Unusable("a dialogue that does not end with the assistant's turn")
        return prompt_of_messages(turns[:-1], key), Response(text=turns[-1].content)
    for shown in _demonstrations(row):
        return shown.prompt, shown.response
    raise Unusable("a thumb without an answer")


def _demonstrations(row: Mapping[str, Any]) -> Iterator[Any]:
    if {"instruction", "context", "response"} <= row.keys():
        return dolly(row)
    return alpaca(row) if {"instruction", "output"} <= row.keys() or "input" in row else prompt_response(row)
