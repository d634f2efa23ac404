"""Where metrics are shown while a run goes on: the terminal always, TensorBoard if it was asked for.

The record of a run is its `metrics.jsonl`; what stands here only shows it. Left out: hosted trackers; each is a
`Tracker` of a dozen lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from palate import disk
from palate.errors import MissingExtraError
from palate.run.metrics import headline
from palate.run.world import world


class Tracker(Protocol):
    """Follows a run from its first step to its end."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step."""
        ...

    def text(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Samples of one step."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class Terminal:
    """A line that moves where somebody is looking; elsewhere a plain line a step, at most one a second.

    Args:
        console: where to write; standard error, so that standard output carries results only. Of several processes the
            first one writes.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True, quiet=world().rank > 0)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._first = self._total = 0
        self._unit = "step"
        self._started = self._printed = 0.0

    def start(self, stage: str, first: int, total: int, *, unit: str = "step", began: float | None = None) -> None:
        """Steps ``first`` to ``total - 1`` are to be done; ``began`` (monotonic) if that was before now."""
        self._first, self._total, self._unit = first, total, unit
        self._started = time.monotonic() if began is None else began
        if self.console.is_terminal:
            columns = ("[bold]{task.description}", "{task.completed}/{task.total}", "{task.fields[metrics]}")
            text = [TextColumn(column) for column in columns]
            self._progress = Progress(*text[:2], BarColumn(20), TimeRemainingColumn(), text[2], console=self.console)
            self._task = self._progress.add_task(stage, total=total, completed=first, metrics="")
            self._progress.start()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done; ``metrics`` are its own."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in headline(metrics).items())
        if self._progress is not None:
            self._progress.update(self._task, completed=step + 1, metrics=shown)
            return
        now = time.monotonic()
        if now - self._printed >= 1 or step + 1 == self._total:
            self._printed = now
            rest = (now - self._started) / (step + 1 - self._first) * (self._total - step - 1)
            self.say(f"{self._unit} {step + 1}/{self._total}  {duration(rest)} left  {shown}".rstrip())

    def say(self, message: str) -> None:
        """A line that stays."""
        self.console.print(message, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was; may be called twice."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def showing(what: str, *, quiet_seconds: float = 3.0) -> Iterator[Callable[[int, int], None]]:
    """Progress of long work that is no run of steps: call what you are given with (done, total).

    Nothing is shown of work that is over within ``quiet_seconds``.
    """
    terminal, began, started = Terminal(), time.monotonic(), False

    def show(done: int, total: int) -> None:
        nonlocal started
        if not started and time.monotonic() - began < quiet_seconds:
            return
        if not started:
            terminal.start(what, 0, total, unit=what, began=began)
            started = True
        if done:
            terminal.step(done - 1, {})

    try:
        yield show
    finally:
        terminal.close()


class TensorBoard:
    """Writes event files; after a resume the steps that are done again replace the old ones.

    Args:
        directory: what ``tensorboard --logdir`` is pointed at.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        try:
            import tensorboard  # noqa: F401  (torch's own message does not say what to install)
        except ImportError:
            raise MissingExtraError("tensorboard", "tensorboard") from None
        self._directory = directory
        self._writer: Any = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar for each metric."""
        for name, value in metrics.items():
            self._open(step).add_scalar(name, value, step)

    def text(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """The samples as indented JSON, without the numbers of their tokens, which fill a page of their own."""
        told = [{key: value for key, value in row.items() if key != "credit"} for row in rows]
        shown = "\n".join("    " + disk.json_text(row, ensure_ascii=False) for row in told)
        self._open(step).add_text("samples", shown, step)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._directory), purge_step=step)
        return self._writer


def duration(seconds: float) -> str:
    """``75`` as ``1:15``, ``3675`` as ``1:01:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
