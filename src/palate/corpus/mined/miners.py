"""Files in, mined records and a report out: what `palate data mine` calls, and the kinds that there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from palate.corpus.accounting.account import Account
from palate.corpus.accounting.ignoring import Ignored
from palate.corpus.catalogue.format import Item, Kind
from palate.corpus.containers.files import file_suffix
from palate.corpus.mined.abstention import abstention_pairs
from palate.corpus.mined.forum_scores import forum_pairs
from palate.corpus.mined.hygiene import clean_demonstrations
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.refusal_pairs import refusal_pairs
from palate.corpus.mined.thumb_pairs import thumb_preferences
from palate.corpus.mined.tree_ranks import tree_rankings
from palate.corpus.reading import check_paths, iterate
from palate.corpus.reading_bar import progress
from palate.corpus.writing import output
from palate.errors import DataError
from palate.recipe import AbstentionMining, ForumMining, Hygiene, RefusalMining, Section, ThumbMining, TreeMining
from palate.records import Candidates, Demonstration, Ranking

Items: TypeAlias = Iterable[tuple[str, Item]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Miner:
    """A kind of material, and what is made of it.

    Attributes:
        about: for the list of kinds.
        settings: the class of its keys.
        make: takes records, each with its file and line, the settings and the report.
        kind: of the records that are read; None: of every kind.
        formats: those that the files may be in; any, if none is named.
    """

    title: str
    about: str
    settings: type[Section]
    make: Callable[[Items, Any, Mining], Iterator[Ranking | Demonstration]] | None = None
    kind: Kind | None = Ranking
    formats: tuple[str, ...] = ()


MINERS: Mapping[str, Miner] = {
    "forum": Miner(
        title="Preferences out of a forum's votes",
        about="answers with votes: the one with more is preferred",
        settings=ForumMining,
    ),
    "thumbs": Miner(
        title="Preferences out of thumbs",
        about="thumbs: a liked response is preferred over a disliked one, or thumbs for `palate kto`",
        settings=ThumbMining,
        make=thumb_preferences,
    ),
    "trees": Miner(
        title="Rankings out of message trees",
        about="message trees as Open-Assistant exports them: ranked answers to one turn",
        settings=TreeMining,
        make=tree_rankings,
        formats=("oasst",),
    ),
    "refusals": Miner(
        title="Harmlessness pairs out of refusal templates",
        about="answers to prompts with a mark: a refusal is preferred for harmful ones, the answer for others",
        settings=RefusalMining,
        make=refusal_pairs,
        kind=None,
    ),
    "abstention": Miner(
        title="Abstention pairs out of what a model knows",
        about="samples of a model beside known answers: where it knows the answer is preferred, else saying so",
        settings=AbstentionMining,
        make=abstention_pairs,
        kind=Candidates,
    ),
    "hygiene": Miner(
        title="Demonstrations that were left out",
        about="demonstrations: without canned refusals, exchanged roles, cut-off answers and duplicates",
        settings=Hygiene,
        make=clean_demonstrations,
        kind=Demonstration,
    ),
}


def mine(
    kind: str,
    paths: Sequence[Path | str],
    *,
    out: Path | str,
    settings: Any,
    report_directory: Path | None = None,
    **said: Any,
) -> Mining:
    """Write what is made of files, one record a line, and the report.

    Args:
        kind: one of `MINERS`.
        out: ends in `.jsonl` or `.jsonl.gz`.
        settings: of the kind's class.
        report_directory: for the page; by default beside the output, named after it.
        said: of the files, as `iterate` takes it.

    Raises:
        DataError: a file that cannot be read, a malformed row, nothing to be made of them, or `out` that cannot be
            written.
    """
    out, miner = Path(out), MINERS[kind]
    if file_suffix(out) != ".jsonl":
        raise DataError("name the output something.jsonl or something.jsonl.gz", path=out)
    files = check_paths([Path(path) for path in paths])
    if any(out.resolve() == path.resolve() for path in files):
        raise DataError("would be overwritten by what is made of it; name another file", path=out)
    stem = out.name.removesuffix(".gz").removesuffix(".jsonl")
    report = Mining(title=miner.title, out=out, directory=report_directory or out.with_name(f"{stem}-report"))
    with output(out) as result:
        records = (
            miner.make(_records(miner, files, report, **said), settings, report)
            if miner.make
            else _of_forum(files, settings, report, **said)
        )
        for record in records:
            report.add(record)
            result.stream.write(record.to_json() + "\n")
        if not report.written.counts:
            raise DataError(report.nothing(), path=files[0])
    report.page().write(report.directory)
    return report


def _of_forum(files: Sequence[Path], settings: ForumMining, report: Mining, **said: Any) -> Iterator[Ranking]:
    """A forum's files are in no format of ours: its columns are named by --field alone."""
    if said.get("format", "auto") != "auto" or any(said.get(name) for name in ("ignore", "verdicts", "join")):
        raise DataError("forum takes --field and --tag; --format, --ignore, --verdict and --join have no meaning here")
    yield from forum_pairs(files, settings, report, fields=said.get("fields") or {}, tags=said.get("tags") or ())


def _records(miner: Miner, files: Sequence[Path], report: Mining, **said: Any) -> Items:
    """Every record of the kind, with its file and line."""
    ignored = Ignored(said.pop("ignore", ()))
    with progress(files, "mining") as watch:
        for path in files:
            account = Account(path)
            told: dict[str, Any] = {"ignore": ignored, "watch": watch, "strict": True, "account": account}
            for line, item in iterate(path, miner.kind, rejections=report.rejections, **told, **said):
                if miner.formats and account.format not in miner.formats:
                    wanted = " or ".join(miner.formats)
                    raise DataError(f"is in the format {account.format}, not {wanted}", path=path)
                yield f"{path}:{line}", item
            report.unused.update({name: column.rows for name, column in account.unused.items()})
    ignored.check(files[0])
