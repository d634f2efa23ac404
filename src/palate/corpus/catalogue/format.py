"""What a format is: how its rows look, and what makes records of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from palate.corpus.rows.row import Row
from palate.corpus.rows.values import Fields
from palate.records import Candidates, Demonstration, Prompt, Ranking

Item: TypeAlias = Prompt | Demonstration | Ranking | Candidates | str
OwnKind: TypeAlias = type[Prompt] | type[Demonstration] | type[Ranking] | type[Candidates]
Kind: TypeAlias = OwnKind | type[str]
Parser: TypeAlias = Callable[[Fields], Iterator[Any]]

KIND_NAMES: Mapping[Kind, str] = {
    Prompt: "prompts",
    Demonstration: "demonstrations",
    Ranking: "rankings",
    Candidates: "candidates",
    str: "texts",
}


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of row is recognised and read.

    Attributes:
        shape: the fields, in words; shown where formats are listed.
        keys: a row with all fields of one of these may be of this format.
        parsers: for each kind of record the format can give, the function that gives it.
        fits: a look at the values, where the fields alone do not tell.
        columns: where the fields go by many names, those that a row of this format has; none if it is of another.
        group: makes one row of several that belong together.
        beside: columns known to stand beside those that are read and to say nothing that is missing without them (the
            scores that a preference was made of). They are named in reports and never stop an import.
    """

    name: str
    shape: str
    keys: tuple[frozenset[str], ...]
    parsers: Mapping[Kind, Parser]
    fits: Callable[[Fields], bool] = lambda row: True
    group: Callable[[Iterator[Row]], Iterator[Row]] | None = None
    beside: frozenset[str] = frozenset()
    columns: Callable[[Fields], frozenset[str]] | None = None

    def has_beside(self, name: str) -> bool:
        """Whether a field is one of those `beside`, at any depth, or stands in one."""
        return any(f".{known}." in f".{name}." for known in self.beside)

    def matched(self, row: Fields) -> frozenset[str]:
        """The largest of the key sets that the row has; empty if it is not of this format."""
        if self.columns is not None:
            return self.columns(row)
        keys = max((keys for keys in self.keys if keys <= row.keys()), key=len, default=frozenset[str]())
        return keys if keys and self.fits(row) else frozenset()


def shaped(name: str, shape: str, *keys: str, beside: str = "", **rest: Any) -> Format:
    """A format whose key sets are written as texts with blanks between the names."""
    return Format(
        name, shape, tuple(frozenset(names.split()) for names in keys), beside=frozenset(beside.split()), **rest
    )
