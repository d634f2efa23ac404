"""From the loosely typed values of a row to texts, numbers, responses and ranks (conversations: see `turns`).

Every function says no in one of two ways (see `rejections`): Malformed for what should not be there, Unusable for what
may be there and is of no use. Texts are kept as they are, blanks at their ends included. A complaint calls a field
what it is called in the file and says what stands there.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from palate.corpus.rows.fields import is_null, label
from palate.corpus.rows.rejections import Malformed, Unusable

Fields: TypeAlias = Mapping[str, Any]

_TRUTHS = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
_SPLIT_ROWS = re.compile(r"\}\s*\n\s*\{")  # an array printed by numpy has line breaks where a list has commas


def value_of(row: Fields, key: str) -> Any:
    """A field that must be there."""
    value = row.get(key)
    if value is None:
        raise Malformed(f"field {label(row, key)!r} is null" if is_null(row, key) else f"no field {label(row, key)!r}")
    return value


def text_of(row: Fields, key: str) -> str:
    """A text that must be there and say something."""
    return said(value_of(row, key), label(row, key))


def optional_text(row: Fields, key: str) -> str:
    """A text, or the empty one where the field is absent or null."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"field {label(row, key)!r} is {kind_of(value)}, not a text")
    return value or ""


def said(value: Any, name: str) -> str:
    """A text that is not blank."""
    if not isinstance(value, str):
        raise Malformed(f"field {name!r} is {kind_of(value)}, not a text")
    if not value.strip():
        raise Unusable(f"empty {name}")
    return value


def number_of(value: Any, name: str) -> float:
    """A finite number, also when it is written as a text, as CSV does."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Malformed(f"field {name!r} is not a number", found=value)
    return number


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def optional_number(row: Fields, key: str) -> float | None:
    """A number, or None where the field is absent, null or an empty cell."""
    return None if row.get(key) in (None, "") else number_of(row[key], label(row, key))


def strength_of(row: Fields, key: str) -> float | None:
    """How strongly something is preferred: a number that is not negative, or None."""
    number = optional_number(row, key)
    if number is not None and number < 0:
        raise Malformed(f"field {label(row, key)!r} is negative: the verdict says which is better", found=number)
    return number


def truth_of(value: Any, name: str) -> bool:
    """True or false, 1 or 0, also written as texts."""
    truth = _TRUTHS.get(str(value).strip().lower())
    if truth is None:
        raise Malformed(f"field {name!r} is not true or false (1 or 0 will do)", found=value)
    return truth


def is_truth(value: Any) -> bool:
    """Whether `truth_of` takes it."""
    return str(value).strip().lower() in _TRUTHS


def list_of(row: Fields, key: str) -> list[Any]:
    """A list that must be there."""
    value = value_of(row, key)
    if not isinstance(value, list):
        raise Malformed(f"field {label(row, key)!r} is {kind_of(value)}, not a list")
    return value


def object_of(value: Any, name: str) -> Fields:
    """An object that must be one."""
    if not isinstance(value, Mapping):
        raise Malformed(f"field {name!r} is {kind_of(value)}, not an object")
    return value


def objects_of(row: Fields, key: str) -> list[Fields]:
    """A list of objects that must be there."""
    return [object_of(each, label(row, key)) for each in list_of(row, key)]


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, bool):
        return "true or false"
    kinds = ((str, "a text"), (int | float, "a number"), (Mapping, "an object"), (list | tuple, "a list"))
    return next((words for kind, words in kinds if isinstance(value, kind)), "null" if value is None else "no JSON")


def structure_in(text: str) -> Any:
    """The list or object that a text spells out, as JSON or as Python prints it; None if it spells none.

    Programs for tables write the lists of a cell in one of these ways.
    """
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] not in ("[]", "{}"):
        return None
    for parse in (json.loads, ast.literal_eval, _printed_array):
        try:
            value = parse(stripped)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value if isinstance(value, list | dict) else None
    return None


def _printed_array(text: str) -> Any:
    return ast.literal_eval(_SPLIT_ROWS.sub("}, {", text))


def ranks_by(scores: Sequence[float], *, lowest_first: bool = False) -> tuple[int, ...]:
    """Rank 1 for the best score; equal scores tie and no rank is left out."""
    order = sorted(set(scores), reverse=not lowest_first)
    return tuple(order.index(score) + 1 for score in scores)
