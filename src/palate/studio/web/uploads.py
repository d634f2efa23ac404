"""Files that come through the browser: read only for those who may send them, and never larger than the workspace says.

A route that takes a file declares no form of its own, because FastAPI would read the whole body before it asks who is
sending it; it calls `received` instead. A file may be sent once and looked at before anything is made of it: it is kept
for its owner, and a form then names it (``upload``) in place of the file. `How` is what is said of a file.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from palate.errors import NotFoundError
from palate.studio.web.workspace import Workspace

MOST_BYTES = 2049 << 20
"""What a route that takes a file declares; the workspace's own limit is checked here."""

KEPT_FILES = 3
KEPT_SECONDS = 86400.0
"""Of one person; older ones are deleted when the next one comes."""

_CHUNK = 1 << 20

Form = TypeVar("Form", bound=BaseModel)
Words = dict[Annotated[str, Field(max_length=500)], Annotated[str, Field(max_length=2000)]]
Columns = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=200)]


class How(BaseModel):
    """How a file is to be read: the settings of ``palate data import``, with the same meaning."""

    model_config = ConfigDict(extra="forbid")

    format: Annotated[str, Field(max_length=60)] = "auto"
    fields: Annotated[Words, Field(max_length=20)] = {}
    tags: Columns = []
    ignore: Columns = []
    verdicts: Annotated[Words, Field(max_length=100)] = {}


@dataclass(frozen=True, slots=True)
class Received:
    """A file on our disk under its own name, how it is to be read, and the other fields of the form."""

    path: Path
    how: How
    fields: Mapping[str, str]


@asynccontextmanager
async def received(request: Request, workspace: Workspace) -> AsyncIterator[Received]:
    """The file in the form's field ``file``, gone afterwards; or the one that was kept as ``upload``.

    Raises:
        HTTPException: there is none (422), or it is too large (413).
        NotFoundError: it is no longer kept.
    """
    async with _form(request, workspace) as form:
        fields = {key: value for key, value in form.items() if isinstance(value, str)}
        upload, how = fields.pop("upload", ""), _how(fields.pop("how", ""))
        if upload:
            yield Received(kept(request, workspace, upload), how, fields)
            return
        with tempfile.TemporaryDirectory(prefix="palate-upload-") as folder:
            yield Received(await _saved(form, workspace, Path(folder)), how, fields)


async def keep(request: Request, workspace: Workspace) -> tuple[str, Path]:
    """Keep the form's file for whoever sends it; its id, and where it is.

    Raises:
        HTTPException: there is none (422), or it is too large (413).
    """
    own = _folder(request, workspace)
    async with _form(request, workspace) as form:
        own.mkdir(parents=True, exist_ok=True)
        upload = secrets.token_urlsafe(12)
        with tempfile.TemporaryDirectory(prefix=".coming-", dir=own) as folder:
            path = await _saved(form, workspace, Path(folder))
            (own / upload).mkdir()
            path = path.rename(own / upload / path.name)
    await run_in_threadpool(_forget_old, own)
    return upload, path


def kept(request: Request, workspace: Workspace, upload: str) -> Path:
    """The file that whoever asks has sent before.

    Raises:
        NotFoundError: it is not there, or not theirs.
    """
    folder = _folder(request, workspace) / upload
    found = sorted(folder.iterdir()) if re.fullmatch(r"[\w-]{1,40}", upload) and folder.is_dir() else []
    if not found:
        raise NotFoundError("this file is no longer here: choose it again")
    return found[0]


def checked(model: type[Form], fields: Mapping[str, str]) -> Form:
    """A form's fields, which came as text, with the errors that FastAPI gives for its own; empty ones are left out."""
    given = {key: value for key, value in fields.items() if value and key != "csrf"}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None


def form_of(**fields: Any) -> dict[str, Any]:
    """The OpenAPI description of such a form; ``fields`` are JSON schemas."""
    own = {
        "file": {"type": "string", "format": "binary"},
        "upload": {"type": "string", "description": "In place of the file: the id of one that was sent before."},
        "how": {
            "type": "string",
            "description": "How to read it: JSON of format, fields, tags, ignore, verdicts.",
        },
    }
    schema = {"type": "object", "properties": {**own, **fields}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@asynccontextmanager
async def _form(request: Request, workspace: Workspace) -> AsyncIterator[FormData]:
    if int(request.headers.get("content-length", 0)) > (workspace.settings.upload_megabytes << 20) + _CHUNK:
        raise _too_large(workspace)
    async with request.form(max_files=1, max_fields=50) as form:
        yield form


async def _saved(form: FormData, workspace: Workspace, folder: Path) -> Path:
    upload = form.get("file")
    if not isinstance(upload, UploadFile) or not upload.filename:
        raise HTTPException(422, "choose a file first")
    if (upload.size or 0) > workspace.settings.upload_megabytes << 20:
        raise _too_large(workspace)
    path = folder / _safe(upload.filename)
    await run_in_threadpool(_copy, upload, path)
    return path


def _how(text: str) -> How:
    if not text:
        return How()
    try:
        return How.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, ("how", *problem["loc"])))
        raise HTTPException(422, f"{where}: {problem['msg']}") from None


def _folder(request: Request, workspace: Workspace) -> Path:
    """Where the files of whoever asks are kept."""
    return workspace.directory / "uploads" / str(request.state.visitor.user.id)


def _forget_old(own: Path) -> None:
    folders = sorted((each for each in own.iterdir()), key=lambda each: each.stat().st_mtime, reverse=True)
    for number, folder in enumerate(folders):
        if number >= KEPT_FILES or folder.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(upload: UploadFile, path: Path) -> None:
    upload.file.seek(0)
    with path.open("wb") as file:
        while chunk := upload.file.read(_CHUNK):
            file.write(chunk)


def _safe(name: str) -> str:
    """A name for our disk: its ending says what the file is, the rest is for messages."""
    clean = re.sub(r"[^\w.-]+", "_", Path(name.replace("\\", "/")).name).lstrip(".")
    return clean[-80:] or "upload"


def _too_large(workspace: Workspace) -> HTTPException:
    return HTTPException(413, f"files of more than {workspace.settings.upload_megabytes} MB are not taken: divide it")
