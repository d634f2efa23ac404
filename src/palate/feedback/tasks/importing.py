"""Files that people bring: prompts to be answered, candidates to be judged, rankings with known answers.

Whatever format a file is in (`palate.corpus`), any record of it gives a prompt; candidates and rankings give items. A
plain text file, like text that is pasted, is one prompt a line. Rows that give nothing are counted with their lines;
they never stop the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from palate.corpus.accounting.duplicates import Unique
from palate.corpus.containers.files import file_suffix
from palate.corpus.first_records import Preview, preview
from palate.corpus.reading import iterate, prompt_of
from palate.corpus.rows.rejections import Malformed, Rejections, Unusable
from palate.errors import DataError
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch
from palate.feedback.tasks import batches
from palate.records import Candidates, Demonstration, Prompt, Ranking

MOST_PROMPTS = 100_000
LONGEST_LINE = 20_000
_AT_ONCE = 500
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why rows gave nothing, how many, and the first places."""

    reason: str
    count: int
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of a file.

    Attributes:
        added: prompts (or items) that are new.
        known: those that were there before.
    """

    added: int
    known: int
    rejected: tuple[Reason, ...] = ()


@dataclass(slots=True)
class Parsed:
    """Records out of a file, and what could not be read."""

    records: list[Prompt | Demonstration | Ranking | Candidates | str] = field(default_factory=list)
    rejections: Rejections = field(default_factory=Rejections)

    @property
    def rejected(self) -> tuple[Reason, ...]:
        """The rejections, the most frequent reason first."""
        return reasons(self.rejections)

    @property
    def prompts(self) -> list[Prompt]:
        """The prompt of every record, each once."""
        return list({(found := prompt_of(record)).id: found for record in self.records}.values())


def reasons(rejections: Rejections) -> tuple[Reason, ...]:
    """Why rows gave nothing, the most frequent reason first."""
    counts = (rejections.malformed + rejections.unusable).most_common()
    return tuple(
        Reason(reason=reason, count=count, lines=_lines(rejections.examples[reason])) for reason, count in counts
    )


def preview_file(path: Path, **how: Any) -> Preview:
    """The first records of a file as `parse_file` would read them; nothing that is wrong with it raises."""
    found = preview(path, **how)
    found.problem = briefly(found.problem, path)
    if _is_plain(path) and not found.problem:
        found.account.format, found.account.why = "lines", "a plain text has a prompt on each line"
        found.records = list(enumerate(parse_file(path).prompts[:_SHOWN], start=1))
    return found


def parse_file(path: Path, **how: Any) -> Parsed:
    """Every record of a file, in whatever format it is.

    Args:
        how: what is said of the file, such as its format and fields, the columns to ignore (see `iterate`).

    Raises:
        DataError: it cannot be read at all, has a column that matters and is not read, or is too long.
    """
    if _is_plain(path):
        try:
            return parse_lines(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text ({error.reason}); convert it first", path=path.name) from None
    parsed = Parsed()
    unique = Unique(parsed.rejections)
    try:
        for _, item in iterate(path, rejections=parsed.rejections, **how):
            if unique(item):
                parsed.records.append(item)
            _check_size(len(parsed.records), path.name)
    except DataError as error:
        raise DataError(briefly(str(error), path)) from None
    return parsed


def briefly(problem: str, path: Path) -> str:
    """For a page, where every format can be chosen and nobody has to read a list of them."""
    what, rest, _ = problem.replace(str(path), path.name).partition("; name its format")
    return f"{what}: say how it is to be read, its format or which of its columns holds what" if rest else what


def _is_plain(path: Path) -> bool:
    return file_suffix(path) in (".txt", ".md") and not path.name.lower().endswith(".gz")


def parse_lines(text: str) -> Parsed:
    """One prompt for each line that is not empty."""
    parsed = Parsed()
    unique = Unique(parsed.rejections)
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > LONGEST_LINE:
            parsed.rejections.add(Malformed(f"longer than {LONGEST_LINE} characters"), "", number)
        elif line.strip():
            prompt = Prompt.from_text(line.strip())
            parsed.records += [prompt] if unique(prompt) else []
        _check_size(len(parsed.records), "the text")
    return parsed


def add_prompts(store: Store, parsed: Parsed, *, source: str) -> Imported:
    """Add the prompts that are not there yet, some hundreds in a transaction."""
    prompts, added = parsed.prompts, 0
    for part in _parts(prompts):
        with store.write() as session:
            added += batches.add_prompts(session, part, source=source)
    return Imported(added=added, known=len(prompts) - added, rejected=parsed.rejected)


def add_items(session: Session, batch: Batch, parsed: Parsed, *, source: str) -> Imported:
    """Make an item of every record that has what the batch asks for; in a screening test its ranks are the answer."""
    added = 0
    for record in parsed.records:
        problem = _misfit(batch, record)
        if problem is not None:
            parsed.rejections.add(problem, "", 0)
            continue
        prompt = prompt_of(record)
        batches.add_prompts(session, [prompt], source=source)
        if batch.kind == "demonstration":
            batches.add_item(session, batch, prompt.id)
        else:
            assert isinstance(record, Ranking | Candidates), "others do not fit"
            rows = [batches.add_response(session, prompt.id, response) for response in record.responses]
            gold = record.ranks if batch.is_screening and isinstance(record, Ranking) else None
            batches.add_item(session, batch, prompt.id, [row.id for row in rows], gold=gold)
        added += 1
    return Imported(added=added, known=0, rejected=parsed.rejected)


def _misfit(batch: Batch, record: object) -> Unusable | None:
    """Why a record is no item of this batch."""
    if batch.kind == "demonstration":
        return None
    if not isinstance(record, Ranking | Candidates):
        return Unusable("has no responses to be judged")
    if any(response.tool_calls for response in record.responses):
        return Unusable("has responses that call tools, which are not shown to labelers")
    if batch.is_screening and not isinstance(record, Ranking):
        return Unusable("has no ranks to be known answers")
    count = len(record.responses)
    if batch.kind in ("pair", "arena") and count != 2:
        return Unusable("does not have two responses")
    return None if 1 <= count <= 9 else Unusable("has more than 9 responses")


def _parts(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    for start in range(0, len(prompts), _AT_ONCE):
        yield prompts[start : start + _AT_ONCE]


def _check_size(count: int, name: str) -> None:
    if count > MOST_PROMPTS:
        raise DataError(f"more than {MOST_PROMPTS:,} records: divide it", path=name)


def _lines(places: Sequence[str]) -> tuple[int, ...]:
    """The line of each "file:line"; 0 stands for none."""
    return tuple(line for line in (int(place.rpartition(":")[2]) for place in places) if line)
