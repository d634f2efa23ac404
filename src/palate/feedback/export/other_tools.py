"""From the log to a file for another tool: which judgements go in, and what could not be said.

A file is written before the first byte of it is sent, so that no transaction waits for a slow reader, and its report is
complete: what the format cannot say is counted, never bent. Judgements of people who gave no consent to their use never
leave the workspace, and votes of an arena only when it is closed, since they name its models. What was corrected or
taken back is left out too; the log keeps it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, get_args

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.orm import Session

from palate.corpus.export import ExportReport, Pseudonyms, export_lines
from palate.feedback.store import people
from palate.feedback.store.tables import BATCH_KINDS, Batch, Event, Item, Judgement, User
from palate.feedback.tasks import judgements
from palate.records import Demonstration, Ranking

View = Literal["training", "all"]
Kind = Literal["", "ranking", "pair", "clips", "demonstration", "arena", "thumb", "choice", "edit"]

KINDS: tuple[Kind, ...] = get_args(Kind)
ACTION = "exported"

_AT_ONCE = 500
_IN_MEMORY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which part of the log; everything of the view where nothing more is said.

    Attributes:
        view: "training" is what may teach a model; "all" adds tests, arena, held-out labelers, late and discarded ones.
        kind: of a batch, or of what is said in the chat; comparisons of clips teach no model, and are had by theirs.
    """

    view: View = "training"
    batch_id: str | None = None
    round_number: int | None = None
    kind: Kind = ""

    def lines(self) -> Select[Judgement]:
        """As a view of the log, in its order."""
        of_clips = None if self.batch_id else self.kind == "clips"
        found = judgements.for_training(of_clips=of_clips) if self.view == "training" else judgements.current()
        found = found.where(Judgement.consent, ~in_open_arena())
        if self.kind and self.kind not in (*BATCH_KINDS, "clips"):
            found = found.where(Judgement.kind == self.kind)
        wanted = ((Batch.id, self.batch_id), (Batch.round_number, self.round_number))
        where = [column == value for column, value in wanted if value is not None]
        where += [Batch.kind == self.kind, ~judgements.compares_clips()] if self.kind in BATCH_KINDS else []
        where += [judgements.compares_clips()] if self.kind == "clips" else []
        if where:
            items = select(Item.id).join(Batch, Batch.id == Item.batch_id).where(*where)
            found = found.where(Judgement.item_id.in_(items))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a selection holds, whatever the format.

    Attributes:
        left_out: of everything that holds in the same part of the log, what the training view leaves out.
        no_consent: judgements that nobody may use.
    """

    judgements: int
    people: int
    left_out: int
    no_consent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that is ready to be sent: its text as UTF-8, at its beginning, and what it does not say."""

    file: IO[bytes]
    size: int
    report: ExportReport


def in_open_arena() -> ColumnElement[bool]:
    """Whether a judgement is a vote whose models must not be known yet."""
    is_open = Batch.settings["closed_at"].as_float().is_(None)
    arena = select(Item.id).join(Batch, Batch.id == Item.batch_id).where(Batch.kind == "arena", is_open)
    return and_(Judgement.item_id.is_not(None), Judgement.item_id.in_(arena))


def counts(session: Session, selection: Selection) -> Counts:
    """How much there is, before any format is chosen."""
    chosen = selection.lines().order_by(None)
    people = chosen.with_only_columns(func.count(), func.count(Judgement.user_id.distinct()))
    number, num_people = session.execute(people).one()
    whole = Selection(batch_id=selection.batch_id, round_number=selection.round_number, kind=selection.kind, view="all")
    total = session.scalar(whole.lines().order_by(None).with_only_columns(func.count())) or 0
    no_consent = judgements.current().where(~Judgement.consent).order_by(None).with_only_columns(func.count())
    return Counts(
        judgements=number,
        people=num_people,
        left_out=total - number,
        no_consent=session.scalar(no_consent) or 0,
    )


def write(session: Session, selection: Selection, *, format: str, pseudonyms: Pseudonyms | None) -> Exported:
    """Write a selection in a format, into a file that nobody else sees.

    Args:
        pseudonyms: what to call people instead; None leaves their names.

    Raises:
        DataError: an unknown format.
    """
    file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by whoever sends it
    report = ExportReport()
    for text in export_lines(_records(session, selection), format=format, report=report, pseudonyms=pseudonyms):
        file.write(text.encode())
    size = file.tell()
    file.seek(0)
    return Exported(file=file, size=size, report=report)


def trial(session: Session, selection: Selection, *, format: str) -> ExportReport:
    """What would come of it.

    Raises:
        DataError: an unknown format.
    """
    report = ExportReport()
    for _ in export_lines(_records(session, selection), format=format, report=report):
        pass
    return report


def note(session: Session, by: User, selection: Selection, report: ExportReport, *, format: str, named: bool) -> None:
    """A line of the audit trail: who took what, and what was not in it."""
    people.record(
        session,
        by.id,
        ACTION,
        format=format,
        view=selection.view,
        batch=selection.batch_id,
        round=selection.round_number,
        kind=selection.kind,
        names=named,
        rows=report.num_rows,
        left_out=dict(report.rejections.unusable),
        notes=dict(report.notes),
    )


def latest(session: Session, *, most: int = 10) -> list[tuple[Event, str]]:
    """The last exports, each with the name of who took it."""
    found = select(Event, User.name).join(User, User.id == Event.user_id).where(Event.action == ACTION)
    return [(event, name) for event, name in session.execute(found.order_by(Event.id.desc()).limit(most))]


def _records(session: Session, selection: Selection) -> Iterator[Ranking | Demonstration]:
    """Rankings first, then demonstrations; an edited answer is both."""
    lines = selection.lines().execution_options(yield_per=_AT_ONCE)
    yield from judgements.rankings(session, lines)
    yield from judgements.demonstrations(session, lines)
