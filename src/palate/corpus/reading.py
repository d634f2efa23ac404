"""Records out of files: what the training stages call, and the stream that import, check and export share.

A training stage stops at the first malformed row, with its file and line; unusable rows and exact duplicates are
counted in `Read.rejected` (see `rejections` for the difference). A prompt can be had from any record; other kinds only
from a format that holds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TypeVar

from palate.corpus.accounting.account import Account
from palate.corpus.accounting.duplicates import Unique
from palate.corpus.accounting.ignoring import Ignored
from palate.corpus.catalogue.format import KIND_NAMES, Format, Item, Kind
from palate.corpus.containers.files import read_rows, sha256
from palate.corpus.explaining import explained, joined, unclear_judgements
from palate.corpus.parsing import parsed
from palate.corpus.recognition import open_format
from palate.corpus.rows.fields import Tracked
from palate.corpus.rows.rejections import Malformed, Rejected, Rejections, Unusable
from palate.corpus.rows.row import Row, Wrapper
from palate.corpus.rows.verdicts import Unclear
from palate.errors import DataError
from palate.recipe import Data
from palate.records import Candidates, Demonstration, Prompt, Ranking, content_id

T = TypeVar("T", Prompt, Demonstration, Candidates, Ranking, str)


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """What was read, what was not, and from which files.

    Attributes:
        records: in the order of the files.
        rejected: counts of what gave no record, to be shown.
        files: SHA-256 of every file by its path, for the run's lineage.
        places: file and line of every record.
        accounts: of every file, what became of its columns.
    """

    records: tuple[T, ...]
    rejected: Rejections
    files: Mapping[str, str]
    places: tuple[tuple[Path, int], ...]
    accounts: tuple[Account, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know of each file: columns that were neither used nor kept, marks of images in its texts."""
        said = []
        for account in self.accounts:
            columns = [f"{name} ({column.words})" for name, column in account.unused.items()]
            marks = [f"{mark} in {count} texts, kept as text" for mark, count in account.marks.items()]
            said += [f"{account.path}: columns not used: {', '.join(columns)}"] if columns else []
            said += [f"{account.path}: marks: {', '.join(marks)}"] if marks else []
        return tuple(said)

    def leave_out(self, record: T, reason: str) -> None:
        """Count one of the records as rejected after all, with its file and line."""
        self.reject([(record, reason)])

    def reject(self, reasons: Iterable[tuple[T, str]]) -> None:
        """The same of several records at once, each with its reason."""
        places = {id(record): place for record, place in zip(self.records, self.places, strict=True)}
        for record, reason in reasons:
            self.rejected.add(Unusable(reason), *places[id(record)])


def as_one(reads: Sequence[Read[T]]) -> Read[T]:
    """What was read at several times as one."""
    rejected = Rejections()
    for read in reads:
        rejected.update(read.rejected)
    return Read(
        records=tuple(record for read in reads for record in read.records),
        rejected=rejected,
        files={path: digest for read in reads for path, digest in read.files.items()},
        places=tuple(place for read in reads for place in read.places),
        accounts=tuple(account for read in reads for account in read.accounts),
    )


def read_prompts(data: Data) -> Read[Prompt]:
    """Every distinct prompt, also those of demonstrations and rankings.

    Raises:
        DataError: a file that cannot be read, a malformed row, or no prompt at all.
    """
    return _read(data, Prompt)


def read_demonstrations(data: Data) -> Read[Demonstration]:
    """Prompts with the response their author would like to see.

    Raises:
        DataError: a file that cannot be read or holds no demonstrations, or a malformed row.
    """
    return _read(data, Demonstration)


def read_rankings(data: Data) -> Read[Ranking]:
    """Judgements: rankings of K responses, pairs and thumbs alike.

    Raises:
        DataError: a file that cannot be read or holds no rankings, or a malformed row.
    """
    return _read(data, Ranking)


def read_candidates(data: Data) -> Read[Candidates]:
    """Prompts with responses: candidates, or what rankings are about, the same responses once.

    Raises:
        DataError: a file that cannot be read or holds neither, or a malformed row.
    """
    return _read(data, Candidates)


def read_texts(data: Data) -> Read[str]:
    """Raw text for pretraining.

    Raises:
        DataError: a file that cannot be read or holds no raw text, or a malformed row.
    """
    return _read(data, str)


def paths_of(path: str) -> tuple[Path, ...]:
    """The files of a recipe's `path`, which may name several, joined by commas."""
    return check_paths([Path(part.strip()) for part in path.split(",") if part.strip()])


def check_paths(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files, if there are any and each is named once."""
    if not paths:
        raise DataError("no file is named")
    for place, each in enumerate(paths):
        if each in paths[:place]:
            raise DataError("is named twice: its judgements would count twice", path=each)
    return tuple(paths)


def iterate(
    path: Path,
    kind: Kind | None = None,
    *,
    rejections: Rejections,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    ignore: Sequence[str] | Ignored = (),
    verdicts: Mapping[str, str] | None = None,
    join: Mapping[str, str] | None = None,
    strict: bool = False,
    account: Account | None = None,
    watch: Callable[[int], None] | None = None,
    most_rows: int | None = None,
) -> Iterator[tuple[int, Item]]:
    """Stream a file's records, each with its line, holding one row at a time.

    Args:
        kind: only records of this kind; None: of every kind the format holds.
        rejections: counts what gives no record.
        ignore: columns to leave out; an `Ignored` serves several files and is checked by whoever made it.
        verdicts: what the file's own words of judgement mean (see `verdicts`).
        join: column -> another file, whose rows belong to those with the same value.
        strict: stop at the first malformed row.
        account: is told what became of every column; by default a column that must not be left out stops the reading.
        watch: is told how many bytes were read, whenever some were.
        most_rows: no more than this many are read.

    Raises:
        DataError: a file that cannot be read or holds no such records; a column that matters and is not read, or one
            to be ignored that is not there; judgements that are not understood; with `strict`, a malformed row.
    """
    account = account or Account(path)
    ignored = ignore if isinstance(ignore, Ignored) else Ignored(ignore)
    account.tags, account.mapped, account.to_ignore = tuple(tags), bool(fields), ignored.names
    judged = (fields or {}).get("preferred", "")
    whole = partial(_rows, path, join or {}, verdicts or {}, judged)
    rows = islice(whole(account.around, watch), most_rows)
    opened = open_format(path, ignored.rows(rows, account), format, fields or {}, account)
    found = opened.format
    _check_kind(found, kind, path)
    for row in opened.rows:
        for item in _parse(row, found, tags, kind, account):
            if not isinstance(item, Rejected):
                yield row.line, item
            elif isinstance(item, Unclear):
                counts = _unclear(chain([row], opened.rows), found)
                raise DataError(unclear_judgements(item, counts, whole()), path=path, line=row.line)
            elif strict and isinstance(item, Malformed):
                advice = f"`palate data check {path}` lists all such rows, `palate data import --skip-bad` drops them"
                raise DataError(f"{item.text}; {advice}", path=path, line=row.line)
            else:
                rejections.add(item, path, row.line)
    account.close(ignored.left_of(account.around.beside))
    if ignored is not ignore:
        ignored.check(path)


def _rows(
    path: Path,
    join: Mapping[str, str],
    verdicts: Mapping[str, str],
    judged: str,
    around: Wrapper | None = None,
    watch: Callable[[int], None] | None = None,
) -> Iterator[Row]:
    return explained(joined(read_rows(path, around=around, watch=watch), join), verdicts, [judged])


def _unclear(rows: Iterable[Row], found: Format) -> Counter[str]:
    """The judgements of these rows that are not understood."""
    items = (
        item
        for row in rows
        for parser in found.parsers.values()
        for item in ([] if row.problem else parsed(parser, Tracked(row.fields)))
    )
    return Counter(item.value for item in items if isinstance(item, Unclear))


def _read(data: Data, kind: type[T]) -> Read[T]:
    rejections = Rejections()
    unique = Unique(rejections)
    ignored = Ignored(data.ignore)
    paths: Sequence[Path] = paths_of(data.path)
    records: list[T] = []
    places: list[tuple[Path, int]] = []
    accounts = [Account(path) for path in paths]
    for path, account in zip(paths, accounts, strict=True):
        items = iterate(
            path,
            None if kind is Candidates else kind,  # which are had from rankings too
            rejections=rejections,
            format=data.format,
            fields=data.fields,
            tags=data.tags,
            ignore=ignored,
            verdicts=data.verdicts,
            join=data.join,
            strict=True,
            account=account,
        )
        for line, found in items:
            item = _candidates_of(found) if kind is Candidates and isinstance(found, Ranking) else found
            if isinstance(item, kind) and unique(item):
                records.append(item)
                places.append((path, line))
    ignored.check(data.path)
    if not records:
        raise DataError(f"no {KIND_NAMES[kind]} in it\n{rejections}".rstrip(), path=data.path)
    sources = (*paths, *[Path(other) for other in data.join.values()])
    files = {str(source): sha256(source) for source in sources}
    kept = _limited(records, data.limit)
    return Read(
        tuple(records[index] for index in kept),
        rejections,
        files,
        places=tuple(places[index] for index in kept),
        accounts=tuple(accounts),
    )


def prompt_of(item: Item) -> Prompt:
    """The prompt of a record; a text stands for itself."""
    if isinstance(item, str):
        return Prompt.from_text(item)
    return item if isinstance(item, Prompt) else item.prompt


def _candidates_of(ranking: Ranking) -> Candidates:
    """What a ranking is about, without what was said of it."""
    return Candidates(prompt=ranking.prompt, responses=ranking.responses)


def _limited(records: Sequence[T], limit: int) -> Sequence[int]:
    """Indices of whole prompts in the order of their hash until the limit is reached; the last may be cut short."""
    everything = range(len(records))
    if not 0 < limit < len(records):
        return everything
    prompt_ids = [prompt_of(record).id for record in records]
    order = sorted(everything, key=lambda index: (content_id("limit", prompt_ids[index]), index))
    return sorted(order[:limit])


def _check_kind(found: Format, kind: Kind | None, path: Path) -> None:
    if kind is None or kind in found.parsers or (kind is Prompt and str not in found.parsers):
        return
    held = " and ".join(KIND_NAMES[each] for each in found.parsers)
    raise DataError(f"holds {held} (format {found.name}), not {KIND_NAMES[kind]}", path=path)


def _parse(
    row: Row, found: Format, tags: Sequence[str], kind: Kind | None, account: Account
) -> Iterator[Item | Rejected]:
    """What one row gives; it always gives something, if only the reason why not.

    Every parser of the format reads the row, whatever kind is asked for, so that what none of them reads is known.
    """
    if row.problem:
        yield row.problem
        return
    fields = Tracked(row.fields)
    made = {each: list(parsed(parser, fields, tags)) for each, parser in found.parsers.items()}
    account.add(row, fields, [item for items in made.values() for item in items], found)
    prompts_of_any = kind is Prompt and str not in found.parsers
    asked_for = made.values() if kind is None or prompts_of_any else [made[kind]]
    told: Counter[str] = Counter()  # two parsers may meet the same problem: it is told once
    prompts: set[str] = set()
    empty = True
    for items in asked_for:
        met: Counter[str] = Counter()
        for item in items:
            empty = False
            if isinstance(item, Rejected):
                met[str(item)] += 1
                if met[str(item)] > told[str(item)]:
                    yield item
            elif not prompts_of_any:
                yield item
            elif (prompt := prompt_of(item)).id not in prompts:
                prompts.add(prompt.id)
                yield prompt
        told |= met
    if empty:
        yield Unusable(f"holds no {KIND_NAMES[kind]}" if kind else "holds no record")
