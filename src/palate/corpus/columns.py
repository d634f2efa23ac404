"""The user's own columns: which of them is the prompt, the responses, the one preferred.

A mapping names for each field a column, or a text with {column} placeholders (`{{` and `}}` are plain braces; values
are stripped where they are set into a text):

    prompt-response   prompt, response
    prompt            prompt
    text              text
    pairs             prompt, a, b; preferred (absent: a is), labeler, strength

`preferred` is a column that holds, for each row, one of:

    the name of the column used for a, or for b       `a1`, `a2`
    a, b                                              in either case
    1, 2                                              the first, the second
    tie, equal                                        neither

0 is refused, since 0/1 could mean "first/second" as well as "no/yes". An empty or null value is an undecided pair,
counted as unusable. A list of such values is a list of votes: each is a ranking of its own by `vote-1`, `vote-2`, ...
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from palate.corpus.rejections import Malformed, Unusable
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
_RANKS = {"a": (1, 2), "1": (1, 2), "b": (2, 1), "2": (2, 1), "tie": (1, 1), "equal": (1, 1)}


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
    votes = row.get("preferred", "a")
    labeler = str(row.get("labeler") or "")
    for place, vote in enumerate(votes if isinstance(votes, list) else [votes], 1):
        if vote is None or not str(vote).strip():
            yield Unusable("no preference given")
            continue
        name = "-".join(filter(None, (labeler, f"vote-{place}"))) if isinstance(votes, list) else labeler
        ranks = _ranks(str(vote).strip(), mapping)
        yield Ranking(prompt=prompt, responses=responses, ranks=ranks, strength=strength, labeler=name)


def _ranks(vote: str, mapping: Mapping[str, str]) -> tuple[int, int]:
    for name, ranks in (("a", (1, 2)), ("b", (2, 1))):
        if vote == mapping[name].strip():
            return ranks
    if vote.lower() not in _RANKS:
        columns = f"{mapping['a']}, {mapping['b']}"
        raise Malformed(
            f"preferred is none of {columns}, a, b, 1, 2, tie, equal (write 0/1 as 1/2: it could mean either)"
        )
    return _RANKS[vote.lower()]
