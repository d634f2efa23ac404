"""What became of every column of a file: used, kept as a tag, left out on request, or not used.

Nothing is left out without a word. A column that nobody reads is counted and named; one that would change what is
learned (see `meanings`) stops the import, unless it only repeats what was read or its format is known to have it beside
what says the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.corpus.accounting.meanings import HARD, meanings
from palate.corpus.catalogue.format import Format
from palate.corpus.rows.fields import Tracked, has_value, texts_in
from palate.corpus.rows.rejections import Rejected, shown
from palate.corpus.rows.row import Row, Wrapper
from palate.corpus.rows.turns import role_of
from palate.errors import DataError
from palate.records import Demonstration, Prompt

_JUDGED = 100  # values of a column looked at for what they may mean
_MARK = re.compile(r"<(?:image|video|audio)>")


@dataclass(slots=True)
class Unused:
    """A column that is not read.

    Attributes:
        rows: that have a value there.
        line: of the first of them.
        example: what stood there.
        meanings: what it speaks of, by field.
        repeated: rows in which it would have stopped the import, had it not said what other columns say.
    """

    line: int
    example: str
    rows: int = 0
    meanings: dict[str, str] = field(default_factory=dict)
    repeated: int = 0

    @property
    def words(self) -> str:
        """What to say of it."""
        if not self.rows:
            return "once, beside the rows"
        return _rows(self.rows) + (", repeats what is read" if self.repeated else "")


@dataclass(slots=True)
class Account:
    """Of one file: the format it was read in, and every column.

    Attributes:
        stops: a column that must not be left out ends the reading; otherwise it is only noted.
        mapped: the user has named the columns, so that only what changes their meaning must not be left out.
        format, why, also: as which it is read, for what reason, and what else it could be.
        used: columns that are read.
        unused: by name, nested ones with dots.
        to_ignore, ignored: columns to be left out, and those that were, with the number of rows that had them.
        decoded: columns whose texts spell out lists of turns.
        marks: how often `<image>` and the like stand in texts that are kept.
        around: the object that wraps the rows, if one does; what else it says is accounted for by `close`.
    """

    path: Path | str
    stops: bool = True
    mapped: bool = False
    format: str = ""
    why: str = ""
    also: tuple[str, ...] = ()
    used: dict[str, None] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    unused: dict[str, Unused] = field(default_factory=dict)
    to_ignore: tuple[str, ...] = ()
    ignored: Counter[str] = field(default_factory=Counter)
    decoded: tuple[str, ...] = ()
    marks: Counter[str] = field(default_factory=Counter)
    around: Wrapper = field(default_factory=Wrapper)

    def add(self, row: Row, fields: Tracked, items: Sequence[Any], found: Format) -> None:
        """Account for one row that was read.

        Where reading a row ended early it is counted with its reason, and what was not read of it tells nothing.

        Raises:
            DataError: with `stops`, a column that must not be left out.
        """
        kept = [item for item in items if not isinstance(item, Rejected)]
        for item in kept:
            self._count_marks(item)
        self.used.update(dict.fromkeys(fields.used()))
        if not kept or any(isinstance(item, Rejected) and item.was_raised for item in items):
            return
        only_prompts = bool(kept) and all(isinstance(item, Prompt) for item in kept)
        met: dict[str, str] = {}
        seen: set[str] = set()
        for path, value in fields.unread():
            name = path.replace(row.members, "") if row.members else path
            unused = self.unused.setdefault(name, Unused(row.line, shown(value)))
            unused.rows += name not in seen
            seen.add(name)
            if unused.rows <= _JUDGED or unused.meanings or unused.repeated:
                met |= self._judge(unused, name, value, fields, found, only_prompts)
        if met and self.stops:
            raise DataError(self._stop(met), path=self.path, line=row.line)

    def close(self, beside: Mapping[str, Any]) -> None:
        """Account for what a file says beside all of its rows.

        Raises:
            DataError: as for a column.
        """
        met: dict[str, str] = {}
        for name, value in beside.items():
            if has_value(value):
                told = self.unused.setdefault(name, Unused(1, shown(value)))
                told.meanings |= dict(meanings(name, value))
                met |= told.meanings
        if met and self.stops:
            raise DataError(self._stop(met), path=self.path, line=1)

    def _judge(
        self, unused: Unused, name: str, value: Any, fields: Tracked, found: Format, only_prompts: bool
    ) -> dict[str, str]:
        speaks = {
            inner: meaning
            for inner, meaning in meanings(name, value, only_prompts=only_prompts)
            if not found.has_beside(inner) and (not self.mapped or meaning in HARD)
        }
        if speaks and _repeats(value, fields):
            unused.repeated += 1
            return {}
        unused.meanings |= speaks
        return speaks

    def _count_marks(self, item: object) -> None:
        for text in _texts_of(item):
            if "<" in text:
                self.marks.update(set(_MARK.findall(text)))

    @property
    def stoppers(self) -> dict[str, str]:
        """Fields that must not be left out without a word, and what they speak of."""
        return {name: what for unused in self.unused.values() for name, what in unused.meanings.items()}

    def _stop(self, met: dict[str, str]) -> str:
        names = list(met)
        told = ", ".join(f"{name!r} speaks of {met[name]}" for name in names)
        marks = f" (texts hold {', '.join(sorted(self.marks))})" if self.marks else ""
        top = next(unused for name, unused in self.unused.items() if _is_at_or_below(names[0], name))
        nowhere = [name for name in self.to_ignore if name not in self.ignored]
        missed = f" (there is no {nowhere[0]!r} so far, which was to be ignored)" if nowhere else ""
        return (
            f"a column is not used when this is read as {self.format}: {told}{marks}{missed}, here {top.example}. "
            f"Say what to do with it: {self._settings(names)}"
        )

    @staticmethod
    def _settings(names: Sequence[str]) -> str:
        ignore = " ".join(f"--ignore {name!r}" if " " in name else f"--ignore {name}" for name in names)
        others = "--tag keeps it, --format and --field read it (recipe: data.ignore, tags, format, fields)"
        return f"{ignore} leave{'s'[: len(names) == 1]} it out, {others}"

    def __str__(self) -> str:
        lines = [f"format     {self.format}{f': {self.why}' if self.why else ''}"]
        if self.also:
            lines.append(f"           could also be {', '.join(self.also)}: say so with --format")
        lines.append("used       " + (", ".join(self.used) or "nothing"))
        named = (
            ("tags       ", self.tags),
            ("decoded    ", tuple(f"{name} (lists of turns in text)" for name in self.decoded)),
            ("not used   ", tuple(f"{name} ({each.words})" for name, each in self.unused.items())),
            ("ignored    ", tuple(f"{name} ({_rows(count)})" for name, count in self.ignored.items())),
            ("marks      ", tuple(f"{mark} in {count} texts, kept as text" for mark, count in self.marks.items())),
        )
        lines += [title + ", ".join(what) for title, what in named if what]
        if self.around.key:
            lines.append(f"rows       those in {self.around.key!r}")
        if self.stoppers:
            told = ", ".join(f"{name} ({what})" for name, what in self.stoppers.items())
            lines.append(f"undecided  {told}: {self._settings(list(self.stoppers))}")
        return "\n".join(lines)


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _is_at_or_below(name: str, column: str) -> bool:
    return name == column or name.startswith(f"{column}.")


def _repeats(value: Any, row: Tracked) -> bool:
    """Whether every text of a value was read elsewhere in the row."""
    texts = [text for text in texts_in(value) if text and role_of(text) is None]
    return bool(texts) and set(texts) <= set(row.read_texts())


def _texts_of(item: Any) -> Iterator[str]:
    if isinstance(item, str):
        yield item
        return
    prompt = item if isinstance(item, Prompt) else item.prompt
    yield from (turn.content for turn in prompt.messages)
    if isinstance(item, Demonstration):
        yield item.response.text
    elif not isinstance(item, Prompt):
        yield from (response.text for response in item.responses)
