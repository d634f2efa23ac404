"""Records in, the text of a file out, and a report of what it does not say.

A record, or a pair of one, that a format cannot say is left out and counted as unusable. What a format has no place for
in a record that it can say (flags, who judged, ...) is counted beside it as a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, TypeAlias

from palate.corpus.catalogue.format import Item
from palate.corpus.containers.files import file_suffix
from palate.corpus.export.lines import CSVLines, JSONArray, JSONLines, Lines
from palate.corpus.export.parts import Exporter, Note
from palate.corpus.export.pseudonyms import Pseudonyms
from palate.corpus.export.table import EXPORTERS, Target, details
from palate.corpus.reading import iterate, paths_of
from palate.corpus.rows.rejections import Rejections, Unusable
from palate.corpus.writing import output
from palate.errors import DataError

_Placed: TypeAlias = tuple[Path | str, int, Item]  # a record and where it stands: the file and line, or its number


@dataclass(slots=True)
class ExportReport:
    """What was written, and what the format could not say.

    Attributes:
        out: the file, if it is one.
        rejections: records and pairs that were left out, by reason.
        notes: records and rows that lost something, by what they lost.
    """

    out: Path | None = None
    rejections: Rejections = field(default_factory=Rejections)
    notes: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0

    def __str__(self) -> str:
        written = f"written    {self.num_rows} rows" + ("" if self.out is None else f" to {self.out}")
        notes = [f"note {count}: {note}" for note, count in self.notes.most_common()]
        return "\n".join(filter(None, [written, str(self.rejections), *notes]))


def export_data(
    path: Path | str, *, format: str, out: Path | str, pseudonyms: Pseudonyms | None = None
) -> ExportReport:
    """Write the records of a file (or of several, joined by commas) in another format.

    Args:
        path: in any format that is recognised.
        format: one of `EXPORTERS`.
        out: ends in `.csv` for the csv format, for the others in `.jsonl` or, for one array, `.json`; each also `.gz`.
        pseudonyms: what to call the labelers instead.

    Raises:
        DataError: an unknown format, a name that does not fit it, a malformed row, or nothing that can be exported.
    """
    paths, out = paths_of(str(path)), Path(out)
    target = _target_of(format, out)
    if any(out.resolve() == each.resolve() for each in paths):
        raise DataError("would be overwritten by its own export; name another file", path=out)
    report = ExportReport(out)
    placed = (
        (each, line, item) for each in paths for line, item in iterate(each, rejections=report.rejections, strict=True)
    )
    return _write(placed, target, out, report, pseudonyms, source=path)


def export_records(
    records: Iterable[Item], *, format: str, out: Path | str | TextIO, pseudonyms: Pseudonyms | None = None
) -> ExportReport:
    """Write records, from wherever they come, to a file or an open text stream.

    Args:
        out: a file as for `export_data`, or a stream, which gets JSON lines, or the table's for the csv format.

    Raises:
        DataError: as for `export_data`. A stream is written to only if there is something to write.
    """
    if isinstance(out, str | Path):
        out = Path(out)
        return _write(_numbered(records), _target_of(format, out), out, ExportReport(out), pseudonyms)
    report = ExportReport()
    for text in export_lines(records, format=format, report=report, pseudonyms=pseudonyms):
        out.write(text)
    if not report.num_rows:
        raise _nothing(format, report)
    return report


def export_lines(
    records: Iterable[Item],
    *,
    format: str,
    report: ExportReport,
    array: bool = False,
    pseudonyms: Pseudonyms | None = None,
) -> Iterator[str]:
    """The text of a file piece by piece, such as a web server sends it; `report` is complete after the last one.

    Args:
        array: one JSON array instead of JSON lines.

    Raises:
        DataError: an unknown format.
    """
    return _text(_numbered(records), _target_of(format), _lines_of(format, array), report, pseudonyms)


def _numbered(records: Iterable[Item]) -> Iterator[_Placed]:
    return (("record", number, item) for number, item in enumerate(records, 1))


def _target_of(format: str, out: Path | None = None) -> Target:
    if format not in EXPORTERS:
        raise DataError(f"no export format {format!r}; there are {', '.join(EXPORTERS)}")
    endings = (".csv",) if format == "csv" else (".jsonl", ".json")
    if out is not None and file_suffix(out) not in endings:
        raise DataError(f"format {format} is written to a file that ends in {' or '.join(endings)}, or .gz", path=out)
    return EXPORTERS[format]


def _lines_of(format: str, array: bool) -> Lines:
    return CSVLines() if format == "csv" else JSONArray() if array else JSONLines()


def _write(
    placed: Iterable[_Placed],
    target: Target,
    out: Path,
    report: ExportReport,
    pseudonyms: Pseudonyms | None,
    source: Path | str | None = None,
) -> ExportReport:
    lines = _lines_of(target.name, file_suffix(out) == ".json")
    with output(out) as result:
        for text in _text(placed, target, lines, report, pseudonyms):
            result.stream.write(text)
        result.keep = report.num_rows > 0
    if not report.num_rows:
        raise _nothing(target.name, report, source)
    return report


def _nothing(format: str, report: ExportReport, source: Path | str | None = None) -> DataError:
    return DataError(f"nothing in it can be written as {format}\n{report.rejections}".rstrip(), path=source)


def _text(
    placed: Iterable[_Placed], target: Target, lines: Lines, report: ExportReport, pseudonyms: Pseudonyms | None
) -> Iterator[str]:
    exporter = target.start()
    for source, number, item in placed:
        before = report.num_rows
        for line in _said(exporter, lines, pseudonyms.apply(item) if pseudonyms else item):
            if isinstance(line, Unusable):
                report.rejections.add(line, source, number)
            elif isinstance(line, Note):
                report.notes[line.text] += 1
            else:
                report.num_rows += 1
                yield line
        if report.num_rows > before:
            report.notes.update(f"{detail} left out" for detail in details(item) - target.keeps)
    yield from filter(None, [lines.end])


def _said(exporter: Exporter, lines: Lines, item: Item) -> Iterator[str | Unusable | Note]:
    try:
        for part in exporter(item):
            yield lines(part) if isinstance(part, dict) else part
    except Unusable as problem:
        yield problem
