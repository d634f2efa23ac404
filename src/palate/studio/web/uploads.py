"""Files that come through the browser: read only for those who may send them, and never larger than the workspace says.

A route that takes a file declares no form of its own, because FastAPI would read the whole body before it asks who is
sending it; it calls `received` instead.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from palate.studio.web.workspace import Workspace

MOST_BYTES = 2049 << 20
"""What a route that takes a file declares; the workspace's own limit is checked here."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """A file on our disk under its own name, and the other fields of the form."""

    path: Path
    fields: Mapping[str, str]


@asynccontextmanager
async def received(request: Request, workspace: Workspace) -> AsyncIterator[Received]:
    """The file in the form's field ``file``; it is gone afterwards.

    Raises:
        HTTPException: there is none (422), or it is too large (413).
    """
    most = workspace.settings.upload_megabytes << 20
    if int(request.headers.get("content-length", 0)) > most + _CHUNK:
        raise _too_large(workspace)
    async with request.form(max_files=1, max_fields=50) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile) or not upload.filename:
            raise HTTPException(422, "choose a file first")
        if (upload.size or 0) > most:
            raise _too_large(workspace)
        fields = {key: value for key, value in form.items() if isinstance(value, str)}
        with tempfile.TemporaryDirectory(prefix="palate-upload-") as folder:
            path = Path(folder) / _safe(upload.filename)
            await run_in_threadpool(_copy, upload, path)
            yield Received(path, fields)


def form_of(**fields: Any) -> dict[str, Any]:
    """The OpenAPI description of such a form; ``fields`` are JSON schemas."""
    properties = {"file": {"type": "string", "format": "binary"}, **fields}
    schema = {"type": "object", "properties": properties, "required": ["file"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


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
