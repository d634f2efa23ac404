"""How far the reading of files has come: a bar with the time that is left, on a terminal and for long work only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_QUIET_SECONDS = 2.0


@contextmanager
def progress(paths: Sequence[Path], what: str) -> Iterator[Callable[[int], None] | None]:
    """Something to be told of every number of bytes that was read of these files; None where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=sum(path.stat().st_size for path in paths if path.is_file()))
    began = time.monotonic()

    def watch(count: int) -> None:
        bar.advance(task, count)
        if not bar.live.is_started and time.monotonic() - began > _QUIET_SECONDS:
            bar.start()

    try:
        yield watch
    finally:
        bar.stop()
