"""Which format a file is in, and why.

The first forty rows are looked at, their fields and what stands in them. Of two formats that fit a row, the one that
asks for the other's fields and more wins (`instruction, chosen, rejected` over `chosen, rejected`); `prompt` and `text`
ask for so little that they lose to any other. If two are left, the rows are read as each of them, and the one that
leaves nothing out that matters is taken. If that does not tell, or if the rows disagree, the user is asked.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from palate.corpus.accounting.account import Account
from palate.corpus.catalogue.all_formats import FORMATS
from palate.corpus.catalogue.format import Format, Kind, Parser
from palate.corpus.formats import columns
from palate.corpus.parsing import parsed
from palate.corpus.rows.cells import spelled_columns, spelled_out
from palate.corpus.rows.fields import Tracked
from palate.corpus.rows.rejections import Malformed
from palate.corpus.rows.row import Row
from palate.errors import DataError
from palate.records import Ranking

LOOKED_AT = 40
_MOST_BROKEN = 1000  # rows looked through for one that is not broken
_WEAK = frozenset({"prompt", "text"})


@dataclass(frozen=True, slots=True)
class Opened:
    """A file about to be read.

    Attributes:
        format: how.
        rows: all of them, those that were looked at among them.
    """

    format: Format
    rows: Iterator[Row]


def open_format(
    path: Path, rows: Iterator[Row], name: str, fields: Mapping[str, str], account: Account | None = None
) -> Opened:
    """The format to read these rows with, and the rows, none of them lost.

    Args:
        name: a format's name, or `auto`.
        fields: the user's columns (see `columns`); with `auto` they say which format is meant.
        account: is told what was chosen, why, and what else it could be.

    Raises:
        DataError: a name or a mapping that does not exist, or rows that fit no format or several.
    """
    account = account or Account(path)
    if name == "auto" and fields:
        name = _meant_by(fields)
    if name != "auto" and name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        raise DataError(f"no format {name!r}; " + (f"did you mean {near[0]!r}?" if near else _listing()))
    head = _head(path, rows, must_be_read=name == "auto")
    account.decoded = spelled_columns([row.fields for row in head if not row.problem])
    rows = spelled_out(chain(head, rows), account.decoded)
    head = list(islice(rows, len(head)))
    if name == "auto":
        name = _recognised(path, [row for row in head if not row.problem], account)
    else:
        account.why = "named by the user" if not fields else "fields are given for it"
    account.format = name
    found = _with_fields(FORMATS[name], fields)
    rows = chain(head, rows)
    return Opened(found, found.group(rows) if found.group else rows)


def _head(path: Path, rows: Iterator[Row], *, must_be_read: bool) -> list[Row]:
    head: list[Row] = []
    good = 0
    for row in islice(rows, _MOST_BROKEN):
        head.append(row)
        good += row.problem is None
        if good == LOOKED_AT:
            break
    if not must_be_read:
        return head
    if not head:
        raise DataError("holds no rows", path=path)
    if not good and head[0].problem:
        raise DataError(f"no row can be read: {head[0].problem.text}", path=path, line=head[0].line)
    return head


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
        if set(columns.REQUIRED[name]) <= fields.keys() <= set(known):
            return name
    known_fields = "; ".join(f"{name}: {', '.join(known)}" for name, known in columns.MAPPABLE.items())
    raise DataError(f"fields {', '.join(fields)} fit no format; {known_fields}")


@dataclass(frozen=True, slots=True)
class _Fit:
    """A format that could be meant.

    Attributes:
        keys: the most of its fields that a row had.
        line: of that row.
        rows: how many rows it is the best for, if not the only one.
    """

    keys: frozenset[str]
    line: int
    rows: int


def _recognised(path: Path, rows: Sequence[Row], account: Account) -> str:
    if not rows:
        raise DataError("no row can be read", path=path)
    best = _without_weak([_best(row) for row in rows])
    fits = _fits(rows, best)
    if not fits:
        names = ", ".join(rows[0].fields)
        hint = " (if they are several, part them by commas or tabs)" if names.count(";") > names.count(",") else ""
        raise DataError(f"no known format has the fields {names}{hint}; {_listing()}", path=path, line=rows[0].line)
    chosen = _chosen(path, rows, best, fits)
    keys = fits[chosen].keys
    account.why = f"it has {', '.join(sorted(keys))} in {fits[chosen].rows} of the {len(rows)} rows looked at"
    others = {name: _most(each, rows) for name, each in FORMATS.items() if name != chosen and name not in _WEAK}
    account.also = tuple(f"{name} ({', '.join(sorted(keys))})" for name, keys in others.items() if keys)
    return chosen


def _without_weak(best: Sequence[dict[str, frozenset[str]]]) -> list[dict[str, frozenset[str]]]:
    """Of rows in which only a prompt or a text is left nothing is said, if others have more."""
    if all(names.keys() <= _WEAK for names in best):
        return list(best)
    return [{name: keys for name, keys in names.items() if name not in _WEAK} for names in best]


def _most(found: Format, rows: Sequence[Row]) -> frozenset[str]:
    """The most fields of this format that any row has."""
    return max((found.matched(Tracked(row.fields)) for row in rows), key=len)


def _best(row: Row) -> dict[str, frozenset[str]]:
    """The formats that fit a row and ask for no less than another one, with the fields that they ask for."""
    fields = Tracked(row.fields)
    fitting = {found.name: keys for found in FORMATS.values() if (keys := found.matched(fields))}
    first = min(map(_order, fitting), default=0)
    strong = {name: keys for name, keys in fitting.items() if _order(name) == first}
    return {name: keys for name, keys in strong.items() if not any(keys < other for other in strong.values())}


def _order(name: str) -> int:
    """Named preferences come first, then those whose columns go by any name, other records, and bare prompts."""
    found = FORMATS[name]
    return 3 if name in _WEAK else 1 if found.columns else 0 if Ranking in found.parsers else 2


def _fits(rows: Sequence[Row], best: Sequence[Mapping[str, frozenset[str]]]) -> dict[str, _Fit]:
    found: dict[str, _Fit] = {}
    for row, names in zip(rows, best, strict=True):
        for name, keys in names.items():
            before = found.get(name, _Fit(frozenset(), row.line, 0))
            richer = len(keys) > len(before.keys)
            found[name] = _Fit(keys if richer else before.keys, row.line if richer else before.line, before.rows + 1)
    return found


def _chosen(
    path: Path, rows: Sequence[Row], best: Sequence[Mapping[str, frozenset[str]]], fits: Mapping[str, _Fit]
) -> str:
    """The format for all rows; one that lacks fields of it is that format's malformed row."""
    if fits.keys() == {"palate", "messages"} and all("messages" in row.fields for row in rows):
        return "messages"  # those that await an answer look like our own prompts
    able = [name for name, fit in fits.items() if all(name in names or _lacks(names, fit.keys) for names in best)]
    if not able:
        seen = " and ".join(f"{name} (row {fit.line})" for name, fit in fits.items())
        raise DataError(f"rows of several formats: {seen}; divide the file, or name one with --format", path=path)
    most = max(fits[name].rows for name in able)
    able = [name for name in able if fits[name].rows == most]
    if len(able) == 1:
        return able[0]
    lost = {name: _lost(path, rows, FORMATS[name]) for name in able}
    fewest = min(lost.values(), key=len)
    left = [name for name in able if len(lost[name]) == len(fewest)]
    if len(left) > 1:
        told = ", or ".join(f"{name} (which leaves {', '.join(lost[name]) or 'nothing'} out)" for name in left)
        raise DataError(f"could be {told}: name one with --format", path=path, line=rows[0].line)
    return left[0]


def _lacks(names: Mapping[str, frozenset[str]], keys: frozenset[str]) -> bool:
    return all(asked <= keys for asked in names.values())


def _lost(path: Path, rows: Sequence[Row], found: Format) -> list[str]:
    """What this format would leave out of these rows that matters."""
    account = Account(path, stops=False, format=found.name)
    for row in found.group(iter(rows)) if found.group else rows:
        fields = Tracked(row.fields)
        items = [item for parser in found.parsers.values() for item in parsed(parser, fields)]
        account.add(row, fields, items, found)
        if all(isinstance(item, Malformed) for item in items):
            return list(row.fields)
    return list(account.stoppers)


def _listing() -> str:
    formats = "".join(f"\n  {found.name:18}{found.shape}" for found in FORMATS.values())
    return f"name its format with --format, or its columns with --field; the formats are{formats}"
