"""What the user says about a file that the file does not: what its judgements mean, and which other file belongs to it.

A judgement that nobody can read stops a file: its values are listed with their counts and the settings that would
explain them. It is never skipped by accident; `VALUE=skip` leaves such judgements out, counted.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from palate.corpus.containers.files import read_rows
from palate.corpus.formats.sides import VERDICTS, plain_names
from palate.corpus.formats.thumbs import THUMBS
from palate.corpus.rows.rejections import Malformed
from palate.corpus.rows.row import Row
from palate.corpus.rows.values import Fields
from palate.corpus.rows.verdicts import Told, Unclear, is_number, meanings_of, plain, shown
from palate.errors import DataError

_MOST_SHOWN = 8


def explained(rows: Iterable[Row], words: Mapping[str, str], columns: Iterable[str] = ()) -> Iterator[Row]:
    """The rows with the user's words explained in every column of judgements, and in these.

    Raises:
        DataError: a word is given a meaning that there is not.
    """
    meanings, named = meanings_of(words), frozenset(columns)
    return (_explained_row(row, meanings, named) for row in rows) if meanings else iter(rows)


def _explained_row(row: Row, meanings: Mapping[str, str], named: frozenset[str]) -> Row:
    judged = [name for plain_name, name in plain_names(row.fields).items() if plain_name in (*VERDICTS, *THUMBS)]
    told = {name: _told(row.fields[name], meanings) for name in {*judged, *(named & row.fields.keys())}}
    return replace(row, fields={**row.fields, **told}) if told else row


def _told(value: Any, meanings: Mapping[str, str]) -> Any:
    """The value with what it means; whoever explains one number has to explain all, since 1 depends on whether 0 is."""
    if isinstance(value, list):
        return [_told(each, meanings) for each in value]
    word = "" if isinstance(value, dict) else plain(value)
    if is_number(word) and any(map(is_number, meanings)):
        return Told.of(value, meanings.get(word, "?"))
    return Told.of(value, meanings[word]) if word in meanings else value


def joined(rows: Iterable[Row], columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows with what another file says under the same value of a column; that file is held in memory.

    Args:
        columns: column -> path of the other file. A column that both have with different values is the row's own; the
            other's is called `joined.COLUMN`.

    Raises:
        DataError: the other file cannot be read, lacks the column or holds a value of it twice.
    """
    found = iter(rows)
    for column, path in columns.items():
        found = _joined_to(found, column, path, _by_value(Path(path), column))
    return found


def _by_value(path: Path, column: str) -> dict[str, Fields]:
    table: dict[str, Fields] = {}
    for row in read_rows(path):
        if row.problem:
            raise DataError(str(row.problem), path=path, line=row.line)
        if column not in row.fields:
            raise DataError(
                f"no column {column!r} to join by; columns: {', '.join(row.fields)}", path=path, line=row.line
            )
        value = plain(row.fields[column])
        if value in table and table[value] != row.fields:
            raise DataError(
                f"{column!r} is {shown(value)!r} in several rows: join by one that differs", path=path, line=row.line
            )
        table[value] = row.fields
    return table


def _joined_to(rows: Iterator[Row], column: str, path: str, table: Mapping[str, Fields]) -> Iterator[Row]:
    for row in rows:
        if row.problem:
            yield row
        elif column not in row.fields:
            yield replace(row, problem=Malformed(f"no field {column!r} to join by"))
        elif (other := table.get(plain(row.fields[column]))) is None:
            yield replace(row, problem=Malformed(f"{path} has no row with this {column!r}"))
        else:
            yield replace(row, fields=_both(row.fields, other))


def _both(own: Fields, other: Fields) -> Fields:
    added = {
        (name if name not in own else f"joined.{name}"): value
        for name, value in other.items()
        if name not in own or plain(own[name]) != plain(value)
    }
    return {**own, **added}


def unclear_judgements(first: Unclear, counts: Counter[str], rows: Iterable[Row]) -> str:
    """What to say of a file with judgements that are not understood.

    Args:
        counts: how often each of them was met.
        rows: the file again, for the values that are understood.
    """
    clear, doubtful = Counter[str](), Counter(counts)
    numbers = any(map(is_number, counts))  # one that is not understood makes the others doubtful
    for value in (value for row in rows for value in _values(row.fields.get(first.column))):
        explained = isinstance(value, Told) and value.meaning != "?"
        if numbers and is_number(value) and not explained and shown(value) not in counts:
            doubtful[shown(value)] += 1
        elif shown(value) not in counts:
            clear[shown(value)] += 1
    in_order = sorted(doubtful, reverse=first.choices[0] == "up")[:_MOST_SHOWN]
    settings = (_setting(value, choice) for value, choice in zip(in_order, cycle(first.choices)))
    return (
        f"{first.column!r} says {_counted(doubtful)}, which may mean anything"
        + (f" (understood: {_counted(clear)})" if clear else "")
        + f"; say what each means, such as {' '.join(settings)} (or {', '.join(first.meanings)}; "
        f"`data.verdicts` in a recipe), or leave out what is no judgement: --ignore {shlex.quote(first.column)}"
    )


def _setting(value: str, choice: str) -> str:
    # what begins with a minus would be taken for an option
    return "--verdict" + ("=" if value.startswith("-") else " ") + shlex.quote(f"{value}={choice}")


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _counted(values: Counter[str]) -> str:
    listed = [f"{value!r} ({count})" for value, count in values.most_common(_MOST_SHOWN)]
    return ", ".join(listed) + (f" and {len(values) - _MOST_SHOWN} more" if len(values) > _MOST_SHOWN else "")
