"""Import and check: a file read to its end, every bad row counted, and a report of what is in it.

Both stream: what is held is one row, a fingerprint of every record (to find exact duplicates) and the counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from palate.corpus.files import file_suffix
from palate.corpus.formats import KIND_NAMES, Item
from palate.corpus.reading import Unique, iterate
from palate.corpus.rejections import Rejections, Unusable
from palate.corpus.writing import output
from palate.errors import DataError
from palate.records import Demonstration, Prompt, Ranking


@dataclass(slots=True)
class Mean:
    """A running mean; undefined (None) of nothing."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Take in one more value."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        """The mean so far."""
        return self.total / self.count if self.count else None

    def __str__(self) -> str:
        return "undefined" if self.value is None else f"{self.value:.1f}"


@dataclass(slots=True)
class ImportReport:
    """What a file holds.

    Attributes:
        counts: records by kind (`rankings`, `demonstrations`, ...), duplicates left out.
        rejections: rows that gave none, by reason, and exact duplicates.
        words: mean number of words of a `prompt` (all its turns), a `response`, a `text`.
        longer_preferred: share of ordered pairs in which the response with more words is preferred; equal lengths
            count one half. A reward model has to be better than this.
        left_out: records that whoever was shown them cannot use, by reason.
        skip_bad: malformed rows are no failure.
        out: the file written, if any.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rejections: Rejections = field(default_factory=Rejections)
    words: dict[str, Mean] = field(default_factory=dict)
    longer_preferred: Mean = field(default_factory=Mean)
    left_out: Rejections = field(default_factory=Rejections)
    skip_bad: bool = False
    out: Path | None = None

    @property
    def failed(self) -> bool:
        """Whether the command is to exit with status 2: malformed rows that nobody said to skip, or no record."""
        return not self.counts or (bool(self.rejections.malformed) and not self.skip_bad)

    def add(self, item: Item) -> None:
        """Count one record."""
        self.counts[KIND_NAMES[type(item)]] += 1
        for name, text in _texts(item):
            self.words.setdefault(name, Mean()).add(len(text.split()))
        if isinstance(item, Ranking):
            lengths = [len(response.text.split()) for response in item.responses]
            for better, worse in item.pairs:
                difference = lengths[better] - lengths[worse]
                self.longer_preferred.add(1.0 if difference > 0 else 0.0 if difference < 0 else 0.5)

    def __str__(self) -> str:
        lines = ["records    " + (", ".join(f"{count} {kind}" for kind, count in self.counts.items()) or "none")]
        if self.words:
            lines.append("words      " + ", ".join(f"{name} {mean}" for name, mean in self.words.items()) + " (means)")
        if self.longer_preferred.count:
            share = f"{self.longer_preferred.total / self.longer_preferred.count:.3f}"
            lines.append(f"pairs      {self.longer_preferred.count}; the longer response is preferred in {share}")
        if str(self.rejections):
            lines.append(str(self.rejections))
        lines += [line.replace("unusable", "left out", 1) for line in str(self.left_out).splitlines()]
        lines.append(self._verdict())
        return "\n".join(filter(None, lines))

    def _verdict(self) -> str:
        if self.out is not None:
            return f"written    {self.out}"
        if self.rejections.malformed and not self.skip_bad:
            return "malformed rows: mend them, or import with --skip-bad to leave them out"
        return ""


def check_data(
    paths: Sequence[Path | str],
    *,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    see: Callable[[Item, str], str] | None = None,
) -> ImportReport:
    """Read files to their end and report; nothing is written.

    Args:
        see: is given every record and its file and line; says why it cannot be used, or nothing.

    Raises:
        DataError: a file that cannot be read at all.
    """
    report = ImportReport()
    for path, line, item in _records(paths, report, format, fields, tags):
        if see is not None and (reason := see(item, f"{path}:{line}")):
            report.left_out.add(Unusable(reason), path, line)
    return report


def import_data(
    paths: Sequence[Path | str],
    *,
    out: Path | str,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    skip_bad: bool = False,
) -> ImportReport:
    """Write the records of files as our own, one JSON object a line; raw text as {"text": ...}.

    With malformed rows nothing is written unless `skip_bad`.

    Args:
        out: ends in `.jsonl` or `.jsonl.gz`.

    Raises:
        DataError: a file that cannot be read at all, or `out` that cannot be written.
    """
    out = Path(out)
    if file_suffix(out) != ".jsonl":
        raise DataError("name the output something.jsonl or something.jsonl.gz", path=out)
    if any(out.resolve() == Path(path).resolve() for path in paths):
        raise DataError("would be overwritten by its own import; name another file", path=out)
    report = ImportReport(skip_bad=skip_bad)
    with output(out) as result:
        for _, _, item in _records(paths, report, format, fields, tags):
            result.stream.write((json.dumps({"text": item}) if isinstance(item, str) else item.to_json()) + "\n")
        result.keep = not report.failed
    report.out = None if report.failed else out
    return report


def _records(
    paths: Sequence[Path | str],
    report: ImportReport,
    format: str,
    fields: Mapping[str, str] | None,
    tags: Sequence[str],
) -> Iterator[tuple[Path, int, Item]]:
    unique = Unique(report.rejections)
    for path in map(Path, paths):
        for line, item in iterate(path, rejections=report.rejections, format=format, fields=fields, tags=tags):
            if unique(item):
                report.add(item)
                yield path, line, item


def _texts(item: Item) -> Iterator[tuple[str, str]]:
    if isinstance(item, str):
        yield "text", item
        return
    prompt = item if isinstance(item, Prompt) else item.prompt
    yield "prompt", " ".join(turn.content for turn in prompt.messages)
    if isinstance(item, Demonstration):
        yield "response", item.response.text
    elif not isinstance(item, Prompt):
        yield from (("response", response.text) for response in item.responses)
