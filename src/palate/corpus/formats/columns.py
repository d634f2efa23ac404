"""The user's own columns: which of them is the prompt, the responses, the one preferred.

A mapping names for each field a column, or a text with {column} placeholders (`{{` and `}}` are plain braces; values
are stripped where they are set into a text):

    prompt-response   prompt, response
    prompt            prompt
    text              text
    pairs             prompt, a, b; preferred (absent: a is), labeler, strength, seconds, model_a, model_b

A prompt may also have a `system` turn, what was said before (`history`) and `tools`. A name with dots is that of a
nested column: `meta.topic`, `answers.0.text`.

`preferred` is a column that says which is better in any of the words of `verdicts`, the names of the columns used for
a and b among them; absent, a is. An empty or null value is an undecided pair, counted as unusable. A list of such
values is a list of votes: each is a ranking of its own by `vote-1`, `vote-2`, ...
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from palate.corpus.formats.sides import name_of, votes
from palate.corpus.rows.fields import Tracked, is_null, label, nested
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.turns import prompt_of, response_of
from palate.corpus.rows.values import Fields, kind_of, optional_number, strength_of, value_of
from palate.errors import DataError
from palate.records import Ranking

_BESIDE_PROMPTS = ("system", "history", "tools")
MAPPABLE: Mapping[str, tuple[str, ...]] = {
    "pairs": (
        "prompt",
        "a",
        "b",
        "preferred",
        "labeler",
        "strength",
        "seconds",
        "model_a",
        "model_b",
        *_BESIDE_PROMPTS,
    ),
    "prompt-response": ("prompt", "response", *_BESIDE_PROMPTS),
    "prompt": ("prompt", *_BESIDE_PROMPTS),
    "text": ("text",),
}
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "pairs": ("prompt", "a", "b"),
    "prompt-response": ("prompt", "response"),
    "prompt": ("prompt",),
    "text": ("text",),
}
DEFAULT_PAIR: Mapping[str, str] = {"prompt": "prompt", "a": "chosen", "b": "rejected"}
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def check_mapping(format_name: str, mapping: Mapping[str, str]) -> None:
    """Refuse a mapping that the format has no use for."""
    known = MAPPABLE.get(format_name)
    if known is None:
        raise DataError(f"format {format_name} takes no fields; those that do: {', '.join(MAPPABLE)}")
    for name in mapping:
        if name not in known:
            raise DataError(f"format {format_name} has no field {name!r}; its fields: {', '.join(known)}")
    for name in REQUIRED[format_name]:
        if name not in mapping:
            raise DataError(f"format {format_name} needs the field {name!r}: say which column or text it is")


def mapped(row: Fields, mapping: Mapping[str, str]) -> Tracked:
    """The row with its columns under the format's own names; complaints still call them as the file does."""
    optional = {name for name in mapping if name in _BESIDE_PROMPTS}
    values = {name: _fill(source, row, may_lack=name in optional) for name, source in mapping.items()}
    return Tracked(values, names=mapping)


def _fill(source: str, row: Fields, *, may_lack: bool) -> Any:
    try:
        return nested(row, source)
    except KeyError:
        if _PLACEHOLDER.search(source):
            return _PLACEHOLDER.sub(lambda found: _placeholder(found, row), source)
        if may_lack or is_null(row, source):
            return None
        raise Malformed(_no_column(source, row)) from None


def _placeholder(found: re.Match[str], row: Fields) -> str:
    name = found.group(1)
    if name is None:
        return found.group()[0]
    try:
        value = nested(row, name)
    except KeyError:
        value = None
        if not is_null(row, name):
            raise Malformed(_no_column(name, row)) from None
    if not isinstance(value, str | int | float):
        raise Malformed(f"column {name!r} is {kind_of(value)}, not a text")
    return str(value).strip()


def _no_column(name: str, columns: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, columns, n=1)
    return f"no column {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(columns)}")


def tags_of(row: Fields, tags: Iterable[str]) -> dict[str, str]:
    """The columns that are to be kept as tags, stripped; null is the empty tag. Our own records have theirs already."""
    return {tag: _tag(row, tag) for tag in tags}


def _tag(row: Fields, tag: str) -> str:
    try:
        value = nested(row, tag)
    except KeyError:
        if is_null(row, tag):
            return ""
        own = row["prompt"] if isinstance(row.get("prompt"), Mapping) else row
        known = own.get("tags")
        if isinstance(known, Mapping) and tag in known:
            return str(known[tag])
        raise Malformed(f"tag: {_no_column(tag, [*row, *(known if isinstance(known, Mapping) else ())])}") from None
    if isinstance(value, list | Mapping):
        raise Malformed(f"tag: column {tag!r} is {kind_of(value)}, not a single value")
    return str(value).strip()


def pairs(row: Fields, mapping: Mapping[str, str]) -> Iterator[Ranking | Unusable]:
    """A pair from a row that has been mapped; `mapping` says what its columns were called."""
    prompt = prompt_of(row)
    models = [name_of(row.get(f"model_{name}")) for name in "ab"]
    responses = tuple(
        response_of(value_of(row, name), label(row, name), model=model)
        for name, model in zip("ab", models, strict=True)
    )
    strength = strength_of(row, "strength")
    labeler = name_of(row.get("labeler"))
    seconds = optional_number(row, "seconds")
    sides = [(mapping[name].strip(), name, model) for name, model in zip("ab", models, strict=True)]
    judged = row.get("preferred") if "preferred" in mapping else "a"
    for name, found in votes(judged, mapping.get("preferred", ""), sides):
        if isinstance(found, Unusable):
            yield found
            continue
        yield Ranking(
            prompt=prompt,
            responses=responses,
            ranks=found.ranks,
            flags=found.flags,
            strength=found.strength if strength is None else strength,
            labeler="-".join(filter(None, (labeler, name))),
            seconds=seconds,
        )
