"""The user's own columns: which of them is the prompt, the responses, the one preferred.

A mapping names for each field a column, or a text with {column} placeholders (`{{` and `}}` are plain braces; values
are stripped where they are set into a text):

    prompt-response   prompt, response
    prompt            prompt
    text              text
    pairs             prompt, a, b; preferred (absent: a is), labeler, strength

`preferred` is a column that says which is better in any of the words of `verdicts`, the names of the columns used for
a and b among them; absent, a is. An empty or null value is an undecided pair, counted as unusable. A list of such
values is a list of votes: each is a ranking of its own by `vote-1`, `vote-2`, ...
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from palate.corpus.rejections import Malformed, Unusable
from palate.corpus.sides import name_of, votes
from palate.corpus.values import Fields, optional_number, prompt_of_value, response_of_value, value_of
from palate.errors import DataError
from palate.records import Ranking

MAPPABLE: Mapping[str, tuple[str, ...]] = {
    "pairs": ("prompt", "a", "b", "preferred", "labeler", "strength"),
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
    for name in known[: 3 if format_name == "pairs" else None]:
        if name not in mapping:
            raise DataError(f"format {format_name} needs the field {name!r}: say which column or text it is")


def mapped(row: Fields, mapping: Mapping[str, str]) -> dict[str, Any]:
    """The row with its columns under the format's own names."""
    return {name: _fill(source, row) for name, source in mapping.items()}


def _fill(source: str, row: Fields) -> Any:
    if source in row:
        return row[source]
    if not _PLACEHOLDER.search(source):
        raise Malformed(_no_column(source, row))
    return _PLACEHOLDER.sub(lambda found: _placeholder(found, row), source)


def _placeholder(found: re.Match[str], row: Fields) -> str:
    name = found.group(1)
    if name is None:
        return found.group()[0]
    if name not in row:
        raise Malformed(_no_column(name, row))
    value = row[name]
    if isinstance(value, list | dict) or value is None:
        raise Malformed(f"column {name!r} is not a text")
    return str(value).strip()


def _no_column(name: str, columns: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, columns, n=1)
    return f"no column {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(columns)}")


def tags_of(row: Fields, tags: Iterable[str]) -> dict[str, str]:
    """The columns that are to be kept as tags, stripped; null is the empty tag. Our own records have theirs already."""
    prompt = row["prompt"] if isinstance(row.get("prompt"), dict) else row
    own = prompt.get("tags")
    known = {**(own if isinstance(own, dict) else {}), **row}
    found = {}
    for tag in tags:
        if tag not in known:
            raise Malformed(f"tag: {_no_column(tag, row)}")
        if isinstance(known[tag], list | dict):
            raise Malformed(f"tag: column {tag!r} is not a single value")
        found[tag] = "" if known[tag] is None else str(known[tag]).strip()
    return found


def pairs(row: Fields, mapping: Mapping[str, str]) -> Iterator[Ranking | Unusable]:
    """A pair from a row that has been mapped; `mapping` says what its columns were called."""
    prompt = prompt_of_value(value_of(row, "prompt"))
    responses = tuple(response_of_value(value_of(row, name), name) for name in "ab")
    strength = optional_number(row, "strength")
    labeler = name_of(row.get("labeler"))
    sides = [(mapping[name].strip(), name) for name in "ab"]
    for name, found in votes(row.get("preferred", "a"), mapping.get("preferred", "preferred"), sides):
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
        )
