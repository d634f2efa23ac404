"""Files that are either whole or not there, JSON that every reader takes, and disk errors that say what to do.

Renaming is atomic on POSIX file systems, but only what was flushed before survives a power cut: so the file is flushed,
renamed, and the directory flushed after it. Windows is left out; it knows neither directory flushes nor the locks of
`run.py` (WSL does).
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from palate.errors import DiskFullError, RunError

_FULL = {errno.ENOSPC, errno.EDQUOT}


def flush(path: Path) -> None:
    """Make a file's content, or a directory's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(root: Path) -> None:
    """Flush every file and directory under ``root``, the innermost first."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            flush(Path(directory, name))
        flush(Path(directory))


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: a reader, and a crash, see the old content or the new and nothing between."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        flush(path.parent)


def write_directory(directory: Path, write: Callable[[Path], None], *, replace: bool = True) -> None:
    """Under a temporary name first, so that a directory is complete or not there.

    Args:
        directory: in the end.
        write: given an empty directory.
        replace: a directory that is there by then; otherwise it stays, as another process has just made it.
    """
    with disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        outer = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
        try:
            temporary = outer / "new"
            temporary.mkdir()  # unlike the outer one, with everybody's usual permissions
            write(temporary)
            for path in temporary.iterdir():  # safetensors makes files that nobody else may read
                path.chmod(temporary.stat().st_mode & 0o666)
            flush_tree(temporary)
            if replace and directory.exists():
                directory.rename(outer / "old")
            try:
                temporary.rename(directory)
            except OSError:
                if replace or not directory.exists():
                    raise
            flush(directory.parent)
        finally:
            shutil.rmtree(outer, ignore_errors=True)


def append_text(path: Path, text: str) -> None:
    """Append and hand over to the operating system, so that a killed process loses nothing."""
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def json_text(value: object, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """JSON as its standard has it: a figure that is not finite is undefined, and that is null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about ``path`` into one line.

    Raises:
        DiskFullError: no space, or no quota, is left.
        RunError: any other refusal to read or write.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise _full(path) from error
        raise RunError(f"{path}: {error.strerror or error}") from error
    except SafetensorError as error:  # it wraps the operating system's error in text
        if "No space left" in str(error) or "quota exceeded" in str(error):
            raise _full(path) from error
        raise


def is_full(error: OSError) -> bool:
    """Whether the operating system says that no space, or no quota, is left."""
    return error.errno in _FULL


def _full(path: Path) -> DiskFullError:
    return DiskFullError(
        f"the disk is full, {path} could not be written; finished checkpoints are kept: free some space, "
        "then go on with --resume"
    )
