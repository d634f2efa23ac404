"""Which format a file is in.

A format is recognised by the fields of a file's first rows. Of two formats that fit, the one that asks for the other's
fields and more wins (`instruction, chosen, rejected` over `chosen, rejected`); `prompt` and `text` ask for so little
that they lose to any other. If two are left, or none, or the rows disagree, the user is asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from palate.corpus import columns
from palate.corpus.files import Row
from palate.corpus.formats import FORMATS, Format, Kind, Parser
from palate.corpus.values import Fields
from palate.errors import DataError
from palate.records import Ranking

_LOOKED_AT = 10
_MOST_BROKEN = 1000  # rows looked through for one that is not broken
_WEAK = frozenset({"prompt", "text"})


def open_format(path: Path, rows: Iterator[Row], name: str, fields: Mapping[str, str]) -> tuple[Format, Iterator[Row]]:
    """The format to read these rows with, and the rows, none of them lost.

    Args:
        name: a format's name, or `auto`.
        fields: the user's columns (see `columns`); with `auto` they say which format is meant.

    Raises:
        DataError: a name or a mapping that does not exist, or rows that fit no format or several.
    """
    if name == "auto" and fields:
        name = _meant_by(fields)
    if name == "auto":
        name, rows = _recognise(path, rows)
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        raise DataError(f"no format {name!r}; " + (f"did you mean {near[0]!r}?" if near else _listing()))
    found = _with_fields(FORMATS[name], fields)
    return found, found.group(rows) if found.group else rows


def _with_fields(found: Format, fields: Mapping[str, str]) -> Format:
    if not fields and found.name != "pairs":
        return found
    mapping = fields or columns.DEFAULT_PAIR
    columns.check_mapping(found.name, mapping)
    given: Mapping[Kind, Parser] = found.parsers
    if found.name == "pairs":
        given = {Ranking: partial(columns.pairs, mapping=mapping)}
    return replace(found, parsers={kind: _after_mapping(parser, mapping) for kind, parser in given.items()})


def _after_mapping(parser: Parser, mapping: Mapping[str, str]) -> Parser:
    return lambda row: parser(columns.mapped(row, mapping))


def _meant_by(fields: Mapping[str, str]) -> str:
    for name, known in columns.MAPPABLE.items():
        if set(known[: 3 if name == "pairs" else None]) <= fields.keys() <= set(known):
            return name
    known_fields = "; ".join(f"{name}: {', '.join(known)}" for name, known in columns.MAPPABLE.items())
    raise DataError(f"fields {', '.join(fields)} fit no format; {known_fields}")


def _recognise(path: Path, rows: Iterator[Row]) -> tuple[str, Iterator[Row]]:
    head: list[Row] = []
    good: list[Row] = []
    for row in islice(rows, _MOST_BROKEN):
        head.append(row)
        good.extend([] if row.problem else [row])
        if len(good) == _LOOKED_AT:
            break
    if not head:
        raise DataError("holds no rows", path=path)
    if not good:
        raise DataError(f"no row can be read: {head[0].problem}", path=path, line=head[0].line)
    return _agreed(path, good), chain(head, rows)


def _agreed(path: Path, rows: Sequence[Row]) -> str:
    """The format of all rows; one that lacks fields of the others' format is that format's malformed row."""
    found: dict[str, tuple[frozenset[str], int]] = {}
    for row in rows:
        for name, keys in _only_one(path, row).items():
            found[name] = max(found.get(name, (keys, row.line)), (keys, row.line), key=lambda seen: len(seen[0]))
    if not found:
        raise DataError(
            f"no known format has the fields {', '.join(rows[0].fields)}; {_listing()}", path=path, line=rows[0].line
        )
    if found.keys() == {"palate", "messages"} and all("messages" in row.fields for row in rows):
        return "messages"  # those that await an answer look like our own prompts
    richest = max(found, key=lambda name: len(found[name][0]))
    if any(not found[name][0] < found[richest][0] for name in found if name != richest):
        seen = " and ".join(f"{name} (row {line})" for name, (_, line) in found.items())
        raise DataError(f"rows of several formats: {seen}; say which one is meant", path=path)
    return richest


def _only_one(path: Path, row: Row) -> dict[str, frozenset[str]]:
    """The format that fits a row, with the fields that it asked for; empty if there is none."""
    fitting = {found.name: keys for found in FORMATS.values() if (keys := _matched(found, row.fields))}
    strong = next(
        filter(None, ({name: keys for name, keys in fitting.items() if _order(name) == order} for order in range(4))),
        {},
    )
    left = {name: keys for name, keys in strong.items() if not any(keys < other for other in strong.values())}
    if len(left) > 1:
        message = f"a row with the fields {', '.join(row.fields)} could be {' or '.join(left)}; {_listing()}"
        raise DataError(message, path=path, line=row.line)
    return left


def _order(name: str) -> int:
    """Named preferences come first, then those whose columns go by any name, other records, and bare prompts."""
    found = FORMATS[name]
    return 3 if name in _WEAK else 1 if found.columns else 0 if Ranking in found.parsers else 2


def _matched(found: Format, row: Fields) -> frozenset[str]:
    """The largest of the format's key sets that the row has; empty if it is not of this format."""
    if found.columns is not None:
        return found.columns(row)
    matched = max((keys for keys in found.keys if keys <= row.keys()), key=len, default=frozenset[str]())
    return matched if matched and found.fits(row) else frozenset()


def _listing() -> str:
    formats = "".join(f"\n  {found.name:18}{found.shape}" for found in FORMATS.values())
    return f"name its format, or its columns with fields; the formats are{formats}"
