"""A file before anything is made of it: sent once, looked at, and told how it is to be read.

The page shows the first records as they would be read and what becomes of every column. What can be said of the file is
what the command line takes: its format, which column holds what, what the words of its judgements mean, and columns
that are kept as tags or left out.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, field_validator
from starlette.concurrency import run_in_threadpool

from palate.corpus.catalogue.all_formats import FORMATS
from palate.corpus.catalogue.format import Item
from palate.corpus.first_records import Preview
from palate.corpus.formats.columns import MAPPABLE
from palate.corpus.rows.verdicts import MEANINGS
from palate.errors import ConflictError
from palate.feedback.store.tables import User
from palate.feedback.tasks import importing
from palate.feedback.tasks.importing import Imported
from palate.records import Candidates, Demonstration, Message, Prompt, Ranking
from palate.studio.labeling.batches import BatchIn, create, reason_out
from palate.studio.web.access import RESEARCHERS, Home, Person, allow
from palate.studio.web.rendering import fragment
from palate.studio.web.uploads import MOST_BYTES, How, Received, checked, form_of, keep, kept, received
from palate.studio.web.workspace import Workspace

router = APIRouter()

_WORDS = {
    "prompt": "the prompt",
    "response": "the answer to learn from",
    "a": "one answer (A)",
    "b": "the other answer (B)",
    "preferred": "which of A and B is better",
    "labeler": "who judged",
    "strength": "by how much it is better",
    "seconds": "how long judging took, in seconds",
    "model_a": "the model that wrote A",
    "model_b": "the model that wrote B",
    "system": "the system prompt",
    "history": "the turns before",
    "tools": "tools that may be called",
    "text": "plain text",
}
FIELDS = {name: _WORDS.get(name, name) for fields in MAPPABLE.values() for name in fields}
"""What a column can hold, in words."""


class ColumnOut(BaseModel):
    """A column, what stands in it, and what becomes of it; ``speaks_of`` is why it must not just be left out."""

    name: str
    example: str
    state: str
    speaks_of: str


class RecordOut(BaseModel):
    """A record as it will be read; ``ranks`` where it has been judged, 1 is best."""

    line: int
    kind: str
    prompt: list[Message] = []
    responses: list[str] = []
    ranks: list[int] = []
    labeler: str = ""


class PreviewOut(BaseModel):
    """The beginning of a file as it would be read.

    ``problem`` says why it cannot be read so; ``html`` is all of it for the page.
    """

    id: str
    name: str
    format: str
    why: str
    also: list[str]
    columns: list[ColumnOut]
    records: list[RecordOut]
    rejected: list[dict[str, Any]]
    notes: list[str]
    problem: str
    html: str


class FileIn(BatchIn):
    """A file of candidates or rankings; with a threshold its ranks are the known answers of a screening test."""

    threshold: Annotated[float, Field(gt=0, le=1)] | None = None

    @field_validator("flags", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A form has one text for a list."""
        return [flag for flag in value.split(",") if flag] if isinstance(value, str) else value


class FileOut(BaseModel):
    """What came of a file."""

    id: str
    added: int
    rejected: list[dict[str, Any]]


@router.post(
    "/api/uploads",
    tags=["files"],
    summary="Send a file and see how it would be read",
    status_code=201,
    max_body_size=MOST_BYTES,
    openapi_extra=form_of(),
)
@allow(RESEARCHERS)
async def send(request: Request, home: Home) -> PreviewOut:
    """It is kept for a day; forms that take a file take its id as ``upload``."""
    upload, path = await keep(request, home)
    return await run_in_threadpool(_seen, upload, path, How())


@router.post(
    "/api/uploads/{upload}/preview", tags=["files"], summary="See how a file would be read if something is said of it"
)
@allow(RESEARCHERS)
async def look(request: Request, home: Home, upload: str, how: How) -> PreviewOut:
    """The file is not sent again."""
    return await run_in_threadpool(_seen, upload, kept(request, home, upload), how)


@router.post(
    "/api/batches/file",
    tags=["batches"],
    summary="Make a batch of a file of candidates or rankings",
    status_code=201,
    max_body_size=MOST_BYTES,
    openapi_extra=form_of(
        name={"type": "string"},
        kind={"type": "string", "enum": ["ranking", "pair", "demonstration"]},
        overlap={"type": "integer"},
        ratings={"type": "boolean", "description": "Ask for a rating of each answer."},
        flags={"type": "string", "description": "Flags that are offered, with commas between them."},
        threshold={"type": "number", "description": "Makes it a screening test whose known answers are the ranks."},
    ),
)
@allow(RESEARCHERS)
async def make_from_file(request: Request, home: Home, person: Person) -> FileOut:
    """In any format that Palate reads; rows that do not fit are counted."""
    async with received(request, home) as got:
        return await run_in_threadpool(_make, home, person, got)


def _seen(upload: str, path: Any, how: How) -> PreviewOut:
    found = importing.preview_file(path, **how.model_dump())
    seen = PreviewOut(
        id=upload,
        name=path.name,
        format=found.account.format,
        why=found.account.why,
        also=list(found.account.also),
        columns=_columns(found),
        records=[_record(line, item) for line, item in found.records],
        rejected=[reason_out(each) for each in importing.reasons(found.rejections)],
        notes=_notes(found),
        problem=found.problem,
        html="",
    )
    shown = fragment(
        "labeling/file.html",
        seen=seen,
        how=how,
        formats={name: format.shape for name, format in FORMATS.items()},
        fields=FIELDS,
        meanings=["a", "b", "c …", *(meaning for meaning in MEANINGS if len(meaning) > 1)],
    )
    return seen.model_copy(update={"html": shown})


def _columns(found: Preview) -> list[ColumnOut]:
    account = found.account
    return [
        ColumnOut(name=name, example=example, state=_state(found, name), speaks_of=_about(account.stoppers, name))
        for name, example in found.columns.items()
    ]


def _notes(found: Preview) -> list[str]:
    account = found.account
    decoded = [f"{name} holds lists of turns, written as text." for name in account.decoded]
    return decoded + [f"{mark} stands in {count} texts, and is kept as text." for mark, count in account.marks.items()]


def _state(found: Preview, name: str) -> str:
    account = found.account
    for state, names in (
        ("tag", account.tags), ("left out", account.to_ignore), ("used", account.used), ("not used", account.unused),
    ):  # fmt: skip
        if any(each == name or each.startswith(f"{name}.") for each in names):
            return state
    return ""


def _about(stoppers: dict[str, str], name: str) -> str:
    return next((what for each, what in stoppers.items() if each == name or each.startswith(f"{name}.")), "")


def _record(line: int, item: Item) -> RecordOut:
    match item:
        case str():
            return RecordOut(line=line, kind="text", responses=[item])
        case Prompt():
            prompt, responses = item, list[str]()
        case Demonstration():
            prompt, responses = item.prompt, [item.response.text]
        case Ranking() | Candidates():
            prompt, responses = item.prompt, [response.text for response in item.responses]
    shown = RecordOut(line=line, kind=type(item).__name__.lower(), prompt=list(prompt.messages), responses=responses)
    if isinstance(item, Ranking):
        shown.ranks, shown.labeler = list(item.ranks), item.labeler
    return shown


def _make(home: Workspace, person: User, got: Received) -> FileOut:
    new = checked(FileIn, got.fields)
    parsed = importing.parse_file(got.path, **got.how.model_dump())
    with home.store.write() as session:
        batch = create(session, home, person, new, threshold=new.threshold)
        found = importing.add_items(session, batch, parsed, source=got.path.name)
        if not found.added:
            raise ConflictError(f"nothing in {got.path.name} makes an item of this batch: {_why(found)}")
    return FileOut(id=batch.id, added=found.added, rejected=[reason_out(each) for each in found.rejected])


def _why(found: Imported) -> str:
    return "; ".join(f"{each.reason} ({each.count})" for each in found.rejected) or "it holds no records"
