"""Records out of files: what the training stages call, and the stream that import, check and export share.

A training stage stops at the first malformed row, with its file and line; unusable rows and exact duplicates are
counted in `Read.rejected` (see `rejections` for the difference). A prompt can be had from any record; other kinds only
from a format that holds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from palate.corpus.columns import tags_of
from palate.corpus.files import Row, read_rows, sha256
from palate.corpus.formats import KIND_NAMES, Format, Item, Kind, Parser
from palate.corpus.recognition import open_format
from palate.corpus.rejections import Malformed, Rejected, Rejections, Unusable
from palate.errors import DataError
from palate.recipe import Data
from palate.records import Demonstration, Prompt, Ranking, content_id

T = TypeVar("T", Prompt, Demonstration, Ranking, str)


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """What was read, what was not, and from which files.

    Attributes:
        records: in the order of the files.
        rejected: counts of what gave no record, to be shown.
        files: SHA-256 of every file by its path, for the run's lineage.
        places: file and line of every record.
    """

    records: tuple[T, ...]
    rejected: Rejections
    files: Mapping[str, str]
    places: tuple[tuple[Path, int], ...]

    def leave_out(self, record: T, reason: str) -> None:
        """Count one of the records as rejected after all, with its file and line."""
        self.reject([(record, reason)])

    def reject(self, reasons: Iterable[tuple[T, str]]) -> None:
        """The same of several records at once, each with its reason."""
        places = {id(record): place for record, place in zip(self.records, self.places, strict=True)}
        for record, reason in reasons:
            self.rejected.add(Unusable(reason), *places[id(record)])


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


def read_texts(data: Data) -> Read[str]:
    """Raw text for pretraining.

    Raises:
        DataError: a file that cannot be read or holds no raw text, or a malformed row.
    """
    return _read(data, str)


def paths_of(path: str) -> tuple[Path, ...]:
    """The files of a recipe's `path`, which may name several, joined by commas."""
    paths = tuple(Path(part.strip()) for part in path.split(",") if part.strip())
    if not paths:
        raise DataError("no file is named")
    return paths


def iterate(
    path: Path,
    kind: Kind | None = None,
    *,
    rejections: Rejections,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    strict: bool = False,
) -> Iterator[tuple[int, Item]]:
    """Stream a file's records, each with its line, holding one row at a time.

    Args:
        kind: only records of this kind; None: of every kind the format holds.
        rejections: counts what gives no record.
        strict: stop at the first malformed row.

    Raises:
        DataError: a file that cannot be read or holds no such records; with `strict`, a malformed row.
    """
    found, rows = open_format(path, read_rows(path), format, fields or {})
    parsers = _parsers(found, kind, path)
    for row in rows:
        for item in _parse(row, parsers, tags, kind):
            if not isinstance(item, Rejected):
                yield row.line, item
            elif strict and isinstance(item, Malformed):
                advice = f"`palate data check {path}` lists all such rows, `palate data import --skip-bad` drops them"
                raise DataError(f"{item}; {advice}", path=path, line=row.line)
            else:
                rejections.add(item, path, row.line)


class Unique:
    """Whether a record says something new; counts those that do not. 16 bytes are kept of each."""

    def __init__(self, rejections: Rejections) -> None:
        self.rejections = rejections
        self._seen: set[bytes] = set()

    def __call__(self, item: Item) -> bool:
        """Whether no earlier record said this."""
        fingerprint = blake2b(_identity(item).encode(), digest_size=16).digest()
        if fingerprint in self._seen:
            self.rejections.duplicates += 1
            return False
        self._seen.add(fingerprint)
        return True


def _identity(item: Item) -> str:
    if isinstance(item, Prompt):
        return item.id  # tags are not part of what it says
    return item if isinstance(item, str) else item.to_json()


def _read(data: Data, kind: type[T]) -> Read[T]:
    rejections = Rejections()
    unique = Unique(rejections)
    paths = paths_of(data.path)
    records: list[T] = []
    places: list[tuple[Path, int]] = []
    for path in paths:
        items = iterate(
            path, kind, rejections=rejections, format=data.format, fields=data.fields, tags=data.tags, strict=True
        )
        for line, item in items:
            if isinstance(item, kind) and unique(item):
                records.append(item)
                places.append((path, line))
    if not records:
        raise DataError(f"no {KIND_NAMES[kind]} in it\n{rejections}".rstrip(), path=data.path)
    files = {str(path): sha256(path) for path in paths}
    kept = _limited(records, data.limit)
    return Read(
        tuple(records[index] for index in kept), rejections, files, places=tuple(places[index] for index in kept)
    )


def prompt_of(item: Item) -> Prompt:
    """The prompt of a record; a text stands for itself."""
    if isinstance(item, str):
        return Prompt.from_text(item)
    return item if isinstance(item, Prompt) else item.prompt


def _limited(records: Sequence[T], limit: int) -> Sequence[int]:
    """Indices of whole prompts in the order of their hash until the limit is reached; the last may be cut short."""
    everything = range(len(records))
    if not 0 < limit < len(records):
        return everything
    prompt_ids = [prompt_of(record).id for record in records]
    order = sorted(everything, key=lambda index: (content_id("limit", prompt_ids[index]), index))
    return sorted(order[:limit])


def _parsers(found: Format, kind: Kind | None, path: Path) -> list[Parser]:
    if kind is None:
        return list(found.parsers.values())
    if kind is Prompt and str not in found.parsers:
        return [_prompts_by(parser) for parser in found.parsers.values()]
    if kind not in found.parsers:
        held = " and ".join(KIND_NAMES[each] for each in found.parsers)
        raise DataError(f"holds {held} (format {found.name}), not {KIND_NAMES[kind]}", path=path)
    return [found.parsers[kind]]


def _prompts_by(parser: Parser) -> Parser:
    def parse(row: Mapping[str, Any]) -> Iterator[Prompt | Unusable]:
        for item in parser(row):
            yield item if isinstance(item, Unusable) else prompt_of(item)

    return parse


def _parse(row: Row, parsers: Sequence[Parser], tags: Sequence[str], kind: Kind | None) -> Iterator[Item | Rejected]:
    """What one row gives; it always gives something, if only the reason why not."""
    if row.problem:
        yield row.problem
        return
    told: Counter[str] = Counter()  # two parsers may meet the same problem: it is told once
    prompts: set[str] = set()
    empty = True
    for parser in parsers:
        met: Counter[str] = Counter()
        for item in _guarded(parser, row, tags):
            empty = False
            if isinstance(item, Rejected):
                met[str(item)] += 1
                if met[str(item)] <= told[str(item)]:
                    continue
            elif kind is Prompt and isinstance(item, Prompt):
                if item.id in prompts:
                    continue
                prompts.add(item.id)
            yield item
        told |= met
    if empty:
        yield Unusable(f"holds no {KIND_NAMES[kind]}" if kind else "holds no record")


def _guarded(parser: Parser, row: Row, tags: Sequence[str]) -> Iterator[Item | Rejected]:
    """A parser's items, tagged and checked; its exceptions become items too."""
    try:
        found = tags_of(row.fields, tags)
        for item in parser(row.fields):
            yield item if isinstance(item, Unusable) else _tagged(_checked(item), found)
    except Rejected as problem:
        yield problem
    except ValidationError as error:
        yield Malformed(_explain(error))


def _checked(item: Item) -> Item:
    if isinstance(item, Ranking) and len(item.responses) == 2 and item.responses[0].text == item.responses[1].text:
        raise Malformed("the two responses of a pair are identical")
    return item


def _tagged(item: Item, tags: Mapping[str, str]) -> Item:
    if not tags or isinstance(item, str):
        return item
    if isinstance(item, Prompt):
        return item.model_copy(update={"tags": {**item.tags, **tags}})
    return item.model_copy(update={"prompt": _tagged(item.prompt, tags)})


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
