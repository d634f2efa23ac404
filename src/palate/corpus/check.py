"""Import and check: a file read to its end, every bad row and every column accounted for, and a report of it all.

Both stream: what is held is one row, a fingerprint of every record (to find exact duplicates) and the counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.corpus.accounting.account import Account
from palate.corpus.accounting.duplicates import Unique
from palate.corpus.accounting.ignoring import Ignored
from palate.corpus.catalogue.format import KIND_NAMES, Item
from palate.corpus.containers.files import file_suffix
from palate.corpus.reading import check_paths, iterate
from palate.corpus.reading_bar import progress
from palate.corpus.rows.rejections import Rejections, Unusable
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
        rejections: rows that gave none, by reason, and records that repeat others.
        accounts: of each file: in which format it was read and why, and what became of every column.
        words: mean number of words of a `prompt` (all its turns), a `response`, a `text`.
        longer_preferred: share of ordered pairs in which the response with more words is preferred; equal lengths
            count one half. A reward model has to be better than this.
        left_out: records that whoever was shown them cannot use, by reason.
        labelers: the rankings' labelers by name.
        num_ties: rankings of two or more responses in which none is better.
        skip_bad: malformed rows are no failure.
        out: the file written, if any.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rejections: Rejections = field(default_factory=Rejections)
    accounts: list[Account] = field(default_factory=list)
    words: dict[str, Mean] = field(default_factory=dict)
    longer_preferred: Mean = field(default_factory=Mean)
    left_out: Rejections = field(default_factory=Rejections)
    labelers: set[str] = field(default_factory=set)
    num_ties: int = 0
    skip_bad: bool = False
    out: Path | None = None

    @property
    def failed(self) -> bool:
        """Whether the command is to exit with status 2: malformed rows that nobody said to skip, columns that nobody
        decided on, or no record."""
        undecided = any(account.stoppers for account in self.accounts)
        return not self.counts or undecided or (bool(self.rejections.malformed) and not self.skip_bad)

    def add(self, item: Item) -> None:
        """Count one record."""
        self.counts[KIND_NAMES[type(item)]] += 1
        for name, text in _texts(item):
            self.words.setdefault(name, Mean()).add(len(text.split()))
        if isinstance(item, Ranking):
            self.labelers.update(filter(None, [item.labeler]))
            self.num_ties += len(item.ranks) > 1 and not item.pairs
            lengths = [len(response.text.split()) for response in item.responses]
            for better, worse in item.pairs:
                difference = lengths[better] - lengths[worse]
                self.longer_preferred.add(1.0 if difference > 0 else 0.0 if difference < 0 else 0.5)

    def __str__(self) -> str:
        lines = self._accounts()
        lines += ["records    " + (", ".join(f"{count} {kind}" for kind, count in self.counts.items()) or "none")]
        if self.words:
            lines.append("words      " + ", ".join(f"{name} {mean}" for name, mean in self.words.items()) + " (means)")
        if self.longer_preferred.count:
            share = f"{self.longer_preferred.total / self.longer_preferred.count:.3f}"
            lines.append(f"pairs      {self.longer_preferred.count}; the longer response is preferred in {share}")
        if self.num_ties:
            lines.append(f"ties       {self.num_ties}")
        if self.labelers:
            lines.append(f"labelers   {len(self.labelers)}")
        if str(self.rejections):
            lines.append(str(self.rejections))
        lines += [line.replace("unusable", "left out", 1) for line in str(self.left_out).splitlines()]
        lines.append(self._verdict())
        return "\n".join(filter(None, lines))

    def _accounts(self) -> list[str]:
        several = len(self.accounts) > 1
        return [f"file       {each.path}\n{each}" if several else str(each) for each in self.accounts]

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
    ignore: Sequence[str] = (),
    verdicts: Mapping[str, str] | None = None,
    join: Mapping[str, str] | None = None,
    see: Callable[[Item, str], str] | None = None,
) -> ImportReport:
    """Read files to their end and report; nothing is written.

    Args:
        ignore: columns to leave out although they may matter.
        see: is given every record and its file and line; says why it cannot be used, or nothing.

    Raises:
        DataError: a file that cannot be read at all.
    """
    report = ImportReport()
    said: dict[str, Any] = {"format": format, "fields": fields, "tags": tags, "verdicts": verdicts, "join": join}
    for path, line, item in _records(paths, report, "checking", ignore, stops=False, **said):
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
    ignore: Sequence[str] = (),
    verdicts: Mapping[str, str] | None = None,
    join: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> ImportReport:
    """Write the records of files as our own, one JSON object a line; raw text as {"text": ...}.

    With malformed rows nothing is written unless `skip_bad`.

    Args:
        out: ends in `.jsonl` or `.jsonl.gz`.
        ignore: columns to leave out although they may matter.

    Raises:
        DataError: a file that cannot be read at all, a column that matters and is not read, or `out` that cannot be
            written.
    """
    out = Path(out)
    if file_suffix(out) != ".jsonl":
        raise DataError("name the output something.jsonl or something.jsonl.gz", path=out)
    if any(out.resolve() == Path(path).resolve() for path in paths):
        raise DataError("would be overwritten by its own import; name another file", path=out)
    report = ImportReport(skip_bad=skip_bad)
    with output(out) as result:
        said: dict[str, Any] = {"format": format, "fields": fields, "tags": tags, "verdicts": verdicts, "join": join}
        for _, _, item in _records(paths, report, "importing", ignore, stops=True, **said):
            result.stream.write((json.dumps({"text": item}) if isinstance(item, str) else item.to_json()) + "\n")
        result.keep = not report.failed
    report.out = None if report.failed else out
    return report


def _records(
    paths: Sequence[Path | str], report: ImportReport, what: str, ignore: Sequence[str], *, stops: bool, **said: Any
) -> Iterator[tuple[Path, int, Item]]:
    unique = Unique(report.rejections)
    ignored = Ignored(ignore)
    files = check_paths([Path(path) for path in paths])
    with progress(files, what) as watch:
        for path in files:
            report.accounts.append(account := Account(path, stops=stops))
            told: dict[str, Any] = {"ignore": ignored, "account": account, "watch": watch}
            for line, item in iterate(path, rejections=report.rejections, **told, **said):
                if unique(item):
                    report.add(item)
                    yield path, line, item
    ignored.check(files[0])


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
