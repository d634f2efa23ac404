"""What was read, what was made of it, what was left out and why, with examples: as text, page and JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from palate.corpus.check import ImportReport
from palate.corpus.rows.rejections import Rejections
from palate.evals.page import Report
from palate.records import Demonstration, Ranking

EXAMPLES = 4
"""Of each reason, and of what was made, the first so many."""
SHOWN = 300
"""Characters of an example."""
COLUMNS = 6
"""That are not used: named in the text, the rest counted; the page has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Something that was left out.

    Attributes:
        place: file and line.
        about: what was measured, or what it repeats.
        text, other: how it begins, and the one that it was compared with.
    """

    place: str
    about: str
    text: str
    other: str = ""


@dataclass(slots=True, kw_only=True)
class Mining:
    """What became of the material.

    Attributes:
        title: of the page.
        read: how much of each kind of thing was read.
        made: how much was written of each kind of preference.
        left_out: (what, reason) -> how many.
        examples: the first of each of them.
        unused: columns that nothing was read from, with the number of rows that have them.
        rejections: rows, or parts of them, that hold nothing.
        written: counts of the records, their words, and how often the longer response is preferred.
    """

    title: str
    out: Path
    directory: Path
    read: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Example]] = field(default_factory=lambda: defaultdict(list))
    unused: Counter[str] = field(default_factory=Counter)
    rejections: Rejections = field(default_factory=Rejections)
    written: ImportReport = field(default_factory=ImportReport)
    shown: list[dict[str, object]] = field(default_factory=list)

    def leave_out(self, what: str, reason: str, place: str, text: str, *, other: str = "", about: str = "") -> None:
        """Count one thing that nothing is made of."""
        self.left_out[what, reason] += 1
        if len(self.examples[what, reason]) < EXAMPLES:
            example = Example(place=place, about=about, text=_beginning(text), other=_beginning(other))
            self.examples[what, reason].append(example)

    def add(self, record: Ranking | Demonstration) -> None:
        """Count one record that is written."""
        self.written.add(record)
        if len(self.shown) < EXAMPLES:
            self.shown.append(dict(_shown(record)))

    @property
    def longer_share(self) -> float | None:
        """Of the ordered pairs, those in which the longer response is preferred; equal lengths count one half."""
        return self.written.longer_preferred.value

    def __str__(self) -> str:
        lines = ["read       " + _listed(self.read), "made       " + _listed(self.made)]
        if self.longer_share is not None:
            pairs = self.written.longer_preferred.count
            lines.append(f"pairs      {pairs:,}; the longer response is preferred in {self.longer_share:.3f}")
        lines += [f"left out {line}" for line in self._left_out()]
        if self.unused:
            names = [f"{name} ({count:,})" for name, count in self.unused.most_common(COLUMNS)]
            more = [f"and {len(self.unused) - COLUMNS} more"] if len(self.unused) > COLUMNS else []
            lines.append("not used   columns " + ", ".join([*names, *more]))
        lines += str(self.rejections).splitlines()
        return "\n".join([*lines, f"written    {self.out}; the report with examples: {self.directory}/report.html"])

    def _left_out(self) -> Iterator[str]:
        for (what, reason), count in self.left_out.most_common():
            yield f"{count:,} {what}: {reason} ({self.examples[what, reason][0].place})"

    def nothing(self) -> str:
        """Why nothing could be made, in lines."""
        return "\n".join(["nothing could be made of it", *self._left_out(), *str(self.rejections).splitlines()])

    def page(self) -> Report:
        """For people, with the examples, and the same figures for programs."""
        report = Report(self.title, f"{self.out}")
        for name, count in self.made.items():
            report.number(f"made_{_key(name)}", count, label=f"Made: {name}")
        for name, count in self.read.items():
            report.number(f"read_{_key(name)}", count, label=f"Read: {name}")
        if self.longer_share is not None:
            report.number("longer_preferred", self.longer_share, label="The longer one is preferred")
        report.data("left_out", [{"what": w, "reason": r, "count": n} for (w, r), n in self.left_out.most_common()])
        report.data("rejected", str(self.rejections).splitlines())
        report.data("columns_not_used", dict(self.unused))
        rows = [[what, reason, count] for (what, reason), count in self.left_out.most_common()]
        report.table("Left out", ["what", "reason", "how many"], rows)
        if str(self.rejections):
            report.text("Rows that hold nothing", str(self.rejections).replace("\n", "\n\n"))
        if self.unused:
            report.table("Columns that nothing was read from", ["column", "rows"], list(self.unused.items()))
        report.side_by_side("The first of what was made", self.shown)
        for (what, reason), _ in self.left_out.most_common():
            shown = [
                {"where": each.place, "measured": each.about, "begins": each.text}
                | ({"the other": each.other} if each.other else {})
                for each in self.examples[what, reason]
            ]
            report.side_by_side(f"Left out, {what}: {reason}", shown)
        return report


def _shown(record: Ranking | Demonstration) -> Iterator[tuple[str, object]]:
    yield "prompt", _beginning(record.prompt.text)
    responses: Sequence[tuple[str, str]] = (
        [("response", record.response.text)]
        if isinstance(record, Demonstration)
        else [(f"rank {rank}", each.text) for each, rank in zip(record.responses, record.ranks, strict=True)]
    )
    for place, (name, text) in enumerate(responses):
        taken = any(name == other for other, _ in responses[:place])
        yield f"{name} ({place + 1})" if taken else name, _beginning(text)


def _beginning(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing"


def _key(name: str) -> str:
    return "_".join(name.replace("-", " ").split())
