"""Everything that was collected, in the format of another tool: what it would hold, the file, and who took one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy import select

from palate.corpus.export import EXPORTERS, ExportReport, Pseudonyms
from palate.errors import ConflictError, NotFoundError
from palate.feedback.export import other_tools
from palate.feedback.export.other_tools import Counts, Kind, Selection, View
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch, Event, Round, User
from palate.studio.web.access import RESEARCHERS, Db, Home, Person, allow
from palate.studio.web.rendering import page

router = APIRouter(tags=["exports"])

FIRST = "trl-conversational"
GROUPS = {
    "Everything": ("palate",),
    "Pairs": (
        "trl-conversational", "trl-explicit", "trl-implicit", "trl-implicit-text", "hh", "csv",
        "ultrafeedback-binarized", "helpsteer2-preference", "webgpt", "shp", "stiennon", "arena",
    ),
    "Whole rankings": ("rankings", "oasst", "argilla", "label-studio", "ultrafeedback", "helpsteer2"),
    "Thumbs": ("trl-kto", "trl-kto-text"),
    "Demonstrations": ("messages", "trl-prompt-completion", "trl-prompt-completion-text", "sharegpt", "alpaca"),
}  # fmt: skip
KIND_NAMES: dict[str, str] = {
    "": "everything",
    "ranking": "rankings",
    "pair": "pairs",
    "clips": "clips of an agent",
    "demonstration": "demonstrations",
    "arena": "arena",
    "thumb": "thumbs from the chat",
    "choice": "choices from the chat",
    "edit": "edits from the chat",
}

_PIECE = 1 << 16


class FormatOut(BaseModel):
    """A format; ``keeps`` is what it can say beside texts and preferences, ``read_as`` how Palate reads it back."""

    name: str
    group: str
    shape: str
    keeps: list[str]
    read_as: str
    file: str


class TakenOut(BaseModel):
    """An export that somebody took, from the audit trail."""

    at: float
    by: str
    format: str
    view: str
    names: bool
    rows: int
    left_out: dict[str, int]


class ExportsOut(BaseModel):
    """What can be had, and what was taken."""

    formats: list[FormatOut]
    latest: list[TakenOut]


class PreviewOut(BaseModel):
    """What a file would hold.

    `left_out` are records and pairs that the format cannot say, `notes` are details that its rows lose,
    `not_in_view` are judgements of the same part that may not teach, `no_consent` those that never leave the workspace.
    """

    format: str
    judgements: int
    people: int
    rows: int
    left_out: dict[str, int]
    notes: dict[str, int]
    not_in_view: int
    no_consent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The part of the log that is asked for, and whether with names."""

    selection: Selection
    names: bool


def _wish(
    view: View = "training",
    batch: Annotated[str, Query(max_length=100)] = "",
    round: Annotated[str, Query(pattern=r"^[0-9]{0,9}$", description="Number of a round.")] = "",
    kind: Kind = "",
    names: Annotated[bool, Query(description="Labelers' names instead of pseudonyms.")] = False,
) -> Wish:
    number = int(round) if round else None
    return Wish(selection=Selection(view=view, batch_id=batch or None, round_number=number, kind=kind), names=names)


TheWish = Annotated[Wish, Depends(_wish)]


@router.get("/exports", include_in_schema=False)
@allow(RESEARCHERS)
def exports_page(request: Request, store: Db, wish: TheWish, format: str = FIRST) -> HTMLResponse:
    """Choose, see the counts, download."""
    if format not in EXPORTERS:
        format = FIRST
    found = _preview(store, wish.selection, format)
    with store.read() as session:
        batches = session.scalars(select(Batch).order_by(Batch.created_at)).all()
        rounds = session.scalars(select(Round).order_by(Round.number)).all()
        taken = [_taken(event, name) for event, name in other_tools.latest(session)]
    return page(
        request, "labeling/exports.html",
        wish=wish.selection, names=wish.names, format=format, found=found, batches=batches,
        rounds=rounds, kinds=KIND_NAMES, groups=GROUPS, formats=EXPORTERS, taken=taken, address=str(request.base_url),
    )  # fmt: skip


@router.get("/exports/counts", include_in_schema=False)
@allow(RESEARCHERS)
def counts_piece(request: Request, store: Db, wish: TheWish, format: str = FIRST) -> HTMLResponse:
    """The counts alone, for the page's script."""
    found = _preview(store, wish.selection, format)
    return page(request, "labeling/exports_counts.html", found=found, formats=EXPORTERS)


@router.get("/api/exports", summary="Formats, and the latest exports")
@allow(RESEARCHERS)
def list_exports(store: Db) -> ExportsOut:
    """Every format is read back by Palate to the same texts and preferences."""
    groups = {name: group for group, names in GROUPS.items() for name in names}
    formats = [
        FormatOut(
            name=each.name,
            group=groups[each.name],
            shape=each.shape,
            keeps=sorted(each.keeps),
            read_as=each.read_as,
            file=_ending(each.name),
        )
        for each in EXPORTERS.values()
    ]
    with store.read() as session:
        return ExportsOut(formats=formats, latest=[_taken(*each) for each in other_tools.latest(session)])


@router.get("/api/exports/{format}/preview", summary="What an export would hold")
@allow(RESEARCHERS)
def preview(store: Db, format: str, wish: TheWish) -> PreviewOut:
    """The same counts as of the file itself; nothing is written."""
    return _preview(store, wish.selection, format)


@router.get(
    "/api/exports/{format}",
    summary="Download an export",
    response_class=StreamingResponse,
    responses={200: {"description": "The file.", "content": {"application/x-ndjson": {}, "text/csv": {}}}},
)
@allow(RESEARCHERS)
def download(store: Db, home: Home, person: Person, format: str, wish: TheWish) -> StreamingResponse:
    """JSON lines, or a table for csv. The header `X-Palate-Report` says what the file does not.

    Labelers have pseudonyms that stay the same in every export of this workspace, unless `names` is set. Who took what
    is recorded.
    """
    _check_format(format)
    pseudonyms = None if wish.names else Pseudonyms(home.secret.encode())
    with store.read() as session:
        made = other_tools.write(session, wish.selection, format=format, pseudonyms=pseudonyms)
    if not made.report.num_rows:
        made.file.close()
        raise ConflictError(_nothing(made.report, format))
    with store.write() as session:
        by = session.get_one(User, person.id)
        other_tools.note(session, by, wish.selection, made.report, format=format, named=wish.names)
    kind = "text/csv; charset=utf-8" if format == "csv" else "application/x-ndjson"
    return StreamingResponse(
        _pieces(made.file), media_type=kind, headers=_headers(made.report, format, wish.selection.view, made.size)
    )


def _preview(store: Store, selection: Selection, format: str) -> PreviewOut:
    _check_format(format)
    with store.read() as session:
        counts: Counts = other_tools.counts(session, selection)
        report = other_tools.trial(session, selection, format=format)
    return PreviewOut(
        format=format,
        judgements=counts.judgements,
        people=counts.people,
        rows=report.num_rows,
        left_out=dict(report.rejections.unusable.most_common()),
        notes=dict(report.notes.most_common()),
        not_in_view=counts.left_out,
        no_consent=counts.no_consent,
    )


def _check_format(format: str) -> None:
    if format not in EXPORTERS:
        raise NotFoundError(f"there is no such format: it is one of {', '.join(EXPORTERS)}")


def _nothing(report: ExportReport, format: str) -> str:
    why = "; ".join(f"{count} × {reason}" for reason, count in report.rejections.unusable.most_common())
    return f"nothing of this can be written as {format}: " + (why or "there are no judgements in this part of the log")


def _headers(report: ExportReport, format: str, view: str, size: int) -> dict[str, str]:
    name = f"palate-{format}-{view}-{time.strftime('%Y-%m-%d', time.gmtime())}{_ending(format)}"
    said: dict[str, Any] = {
        "rows": report.num_rows, "left_out": dict(report.rejections.unusable), "notes": dict(report.notes)
    }  # fmt: skip
    return {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(size),
        "X-Palate-Report": json.dumps(said),
    }


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE):
            yield piece


def _ending(format: str) -> str:
    return ".csv" if format == "csv" else ".jsonl"


def _taken(event: Event, name: str) -> TakenOut:
    said = {key: event.detail[key] for key in ("format", "view", "names", "rows", "left_out")}
    return TakenOut(at=event.at, by=name, **said)
