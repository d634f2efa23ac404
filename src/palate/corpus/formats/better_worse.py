"""A better and a worse response in columns that say so, by whatever name.

    question, chosen_response, rejected_response | prompt, preferred, dispreferred | question, response_j, response_k
    context, good_edited_response, bad_edited_response | prompt, y_w, y_l | ...

Their scores and models go by the same names with more before or after them (`chosen_score`, `rejected_model`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

from palate.corpus.formats.columns import mapped, pairs
from palate.corpus.formats.rankings import apart
from palate.corpus.formats.sides import LABELERS, STRENGTHS, Sides, column_of, plain_names, prompt_column
from palate.corpus.rows.fields import label
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.values import Fields, number_of, value_of
from palate.records import Ranking

_SIDES = (
    ("chosen", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred", "non_preferred"),
    ("preferred", "rejected"),
    ("accepted", "rejected"),
    ("better", "worse"),
    ("winner", "loser"),
    ("winning", "losing"),
    ("good", "bad"),
    ("positive", "negative"),
    ("j", "k"),
    ("w", "l"),
)
_NOUNS = ("response", "answer", "output", "completion", "text", "summary", "edited_response", "y")
_SCORES = ("score", "rating", "avg_rating")
_ALONE = frozenset({"preferred", "better", "winner", "winning", "accepted"})


def columns(row: Fields) -> frozenset[str]:
    """The columns of a row that are read here; none if it does not show a better and a worse response."""
    sides, prompt = _sides_of(row), prompt_column(row)
    if sides is None or prompt is None:
        return frozenset()
    scores = sides.beside(*_SCORES) or ()
    return frozenset({prompt, *sides.columns, *_beside(row, sides).values(), *scores})


def better_and_worse(row: Fields) -> Iterator[Ranking | Unusable]:
    """One pair, the better response first."""
    sides, prompt = _sides_of(row), prompt_column(row)
    if sides is None or prompt is None:
        raise Malformed("no prompt with a better and a worse response, such as chosen_response and rejected_response")
    mapping = {"prompt": prompt, "a": sides.columns[0], "b": sides.columns[1], **_beside(row, sides)}
    scores = sides.beside(*_SCORES)
    for found in pairs(mapped(row, mapping), mapping):
        if isinstance(found, Ranking) and found.strength is None and scores:
            better, worse = (number_of(value_of(row, column), label(row, column)) for column in scores)
            found = found.model_copy(update={"strength": apart(better, worse)})
        yield found


def _beside(row: Fields, sides: Sides) -> Mapping[str, str]:
    models = sides.beside("model") or (None, None)
    columns = (column_of(row, LABELERS), column_of(row, STRENGTHS), *models)
    named = zip(("labeler", "strength", "model_a", "model_b"), columns, strict=True)
    return {name: column for name, column in named if column}


def _sides_of(row: Fields) -> Sides | None:
    names = plain_names(row)
    for ends, noun in product(_SIDES, _NOUNS):
        for form in ("{0}_{1}", "{1}_{0}"):
            columns = [names.get(form.format(end, noun)) for end in ends]
            if columns[0] and columns[1]:
                return Sides(names, noun, ends, (columns[0], columns[1]))
    alone = next((ends for ends in _SIDES if ends[0] in _ALONE and {*ends} <= names.keys()), None)
    return Sides(names, "response", alone, (names[alone[0]], names[alone[1]])) if alone else None
