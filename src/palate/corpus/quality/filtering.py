"""Documents in, those that are worth learning from out, and a report of what was dropped and why, with examples.

First come the rules, then what repeats an earlier document: to the letter but for case and white space, or nearly. Of
documents that are alike the first stays. Held in memory are the kept documents' fingerprints, not their texts.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.corpus.accounting.ignoring import Ignored
from palate.corpus.containers.files import file_suffix
from palate.corpus.quality.gopher import failures
from palate.corpus.quality.near_duplicates import NearDuplicates
from palate.corpus.reading import check_paths, iterate
from palate.corpus.reading_bar import progress
from palate.corpus.rows.rejections import Rejections
from palate.corpus.writing import output
from palate.errors import DataError
from palate.evals.page import Report
from palate.recipe import Quality
from palate.records import text_id

EXACT, NEAR = "exact duplicate", "near duplicate"
EXAMPLES = 4
"""Of each reason, the first so many."""
SHOWN = 300
"""Characters of an example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A reason to drop a document.

    Attributes:
        place: file and line.
        about: the number that was measured and its limit, or which document it repeats.
        text: how it begins.
        other: how the document begins that it repeats.
    """

    place: str
    reason: str
    about: str
    text: str
    other: str = ""


@dataclass(slots=True, kw_only=True)
class FilterReport:
    """What became of the documents.

    Attributes:
        read, kept: documents.
        read_characters, kept_characters: of them.
        reasons: documents by what is wrong with them; one may have several.
        alone: those of them that have no other.
        examples: the first of every reason.
        rejections: rows that hold no document.
        directory: where the page is.
    """

    read: int = 0
    kept: int = 0
    read_characters: int = 0
    kept_characters: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Dropped]] = field(default_factory=lambda: defaultdict(list))
    rejections: Rejections = field(default_factory=Rejections)
    out: Path
    directory: Path

    def drop(self, reasons: Sequence[Dropped]) -> None:
        """Count a document that is not kept."""
        self.reasons.update(each.reason for each in reasons)
        self.alone.update([reasons[0].reason] if len(reasons) == 1 else [])
        for each in reasons:
            if len(self.examples[each.reason]) < EXAMPLES:
                self.examples[each.reason].append(each)

    def __str__(self) -> str:
        width = max(map(len, self.reasons), default=0)
        lines = [f"documents  {self.read:,} read, {self.kept:,} kept, {self.read - self.kept:,} dropped"]
        lines += [f"characters {self.read_characters:,} read, {self.kept_characters:,} kept"]
        lines += [
            f"  {reason:<{width}}  {count:>6,}  (alone {self.alone[reason]:,})  {self.examples[reason][0].place}"
            for reason, count in self.reasons.most_common()
        ]
        lines += str(self.rejections).splitlines()
        return "\n".join([*lines, f"written    {self.out}; the report with examples: {self.directory}/report.html"])

    def page(self) -> Report:
        """For people, with the examples, and the same figures for programs."""
        report = Report("What was dropped, and why", f"{self.out}")
        report.number("documents_read", self.read)
        report.number("documents_kept", self.kept)
        report.number("characters_read", self.read_characters)
        report.number("characters_kept", self.kept_characters)
        report.data("dropped", dict(self.reasons.most_common()))
        report.data("dropped_for_this_alone", dict(self.alone.most_common()))
        report.data("rejected", [*str(self.rejections).splitlines()])
        rows = [[reason, count, self.alone[reason]] for reason, count in self.reasons.most_common()]
        report.table(
            "Reasons",
            ["reason", "documents", "for this alone"],
            rows,
            "A document may break several rules. Only one that breaks none is compared with those before it.",
        )
        for reason, _ in self.reasons.most_common():
            shown = [
                {"where": each.place, "measured": each.about, "begins": each.text}
                | ({"repeats": each.other} if each.other else {})
                for each in self.examples[reason]
            ]
            report.side_by_side(f"Examples: {reason}", shown)
        return report


def filter_data(
    paths: Sequence[Path | str],
    *,
    out: Path | str,
    settings: Quality,
    report_directory: Path | None = None,
    **said: Any,
) -> FilterReport:
    """Write the documents that are kept, one JSON object {"text": ...} a line, and the report.

    Args:
        out: ends in `.jsonl` or `.jsonl.gz`.
        settings: the thresholds.
        report_directory: for the page; by default beside the output, named after it.
        said: of the files, as `iterate` takes it.

    Raises:
        DataError: a file that cannot be read, a malformed row, no document in it, or `out` that cannot be written.
    """
    out = Path(out)
    if file_suffix(out) != ".jsonl":
        raise DataError("name the output something.jsonl or something.jsonl.gz", path=out)
    if any(out.resolve() == Path(path).resolve() for path in paths):
        raise DataError("would be overwritten by its own filter; name another file", path=out)
    stem = out.name.removesuffix(".gz").removesuffix(".jsonl")
    report = FilterReport(out=out, directory=report_directory or out.with_name(f"{stem}-report"))
    judge = Judge(settings)
    with output(out) as result:
        for place, text in _documents(paths, report, **said):
            report.read += 1
            report.read_characters += len(text)
            if reasons := judge(place, text):
                report.drop(reasons)
            else:
                report.kept += 1
                report.kept_characters += len(text)
                result.stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        if not report.read:
            raise DataError(f"no texts in it\n{report.rejections}".rstrip(), path=str(paths[0]))
    report.page().write(report.directory)
    return report


class Judge:
    """Says of one document after the other why it is dropped; remembers those that are not."""

    def __init__(self, settings: Quality) -> None:
        self.settings = settings
        self._known: dict[str, tuple[str, str]] = {}
        self._near = NearDuplicates(settings.max_similarity, settings.shingle_words)

    def __call__(self, place: str, text: str) -> list[Dropped]:
        """The reasons; none: it is kept."""
        begins, name = _beginning(text), text_id(text)
        broken = [
            Dropped(place=place, reason=each.reason, about=f"{each.value:.3g}, limit {each.limit:g}", text=begins)
            for each in failures(text, self.settings)
        ]
        if broken:
            return broken
        if name in self._known:
            return [_repeats(EXACT, place, begins, *self._known[name], "")]
        if self.settings.max_similarity < 1 and (found := self._near.find(text, name)):
            other, similarity = found
            return [_repeats(NEAR, place, begins, *self._known[str(other)], f", {similarity:.2f} alike")]
        self._known[name] = (place, begins)
        return []


def _repeats(reason: str, place: str, begins: str, other_place: str, other: str, how: str) -> Dropped:
    return Dropped(place=place, reason=reason, about=f"as {other_place}{how}", text=begins, other=other)


def _beginning(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _documents(paths: Sequence[Path | str], report: FilterReport, **said: Any) -> Iterator[tuple[str, str]]:
    """Every text, with its file and line."""
    ignored = Ignored(said.pop("ignore", ()))
    files = check_paths([Path(path) for path in paths])
    with progress(files, "filtering") as watch:
        for path in files:
            told: dict[str, Any] = {"ignore": ignored, "watch": watch, "strict": True}
            for line, text in iterate(path, str, rejections=report.rejections, **told, **said):
                assert isinstance(text, str)
                yield f"{path}:{line}", text
    ignored.check(files[0])
