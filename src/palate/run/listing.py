"""The runs under a directory, for `palate runs`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from palate.run import lineage
from palate.run.locking import is_running
from palate.run.metrics import headline
from palate.run.trackers import duration

_SKIP = {"checkpoints", "model", "tensorboard"}
_TAIL = 1 << 16  # bytes; the last line of the metrics is well inside


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run at a glance.

    Attributes:
        state: ``unreadable`` if its lineage is damaged.
        step: finished steps that were logged.
        total: steps in all; None before training began.
        metrics: the most telling ones of the last step.
        age: seconds since it was started.
    """

    path: Path
    stage: str
    state: Literal["finished", "running", "stopped", "unreadable"]
    step: int
    total: int | None
    metrics: dict[str, float]
    age: float


def list_runs(root: Path | str) -> list[RunSummary]:
    """Every run under ``root``, the newest first."""
    directories = [Path(directory) for directory, names, files in _walk(Path(root)) if lineage.FILE in files]
    return sorted(map(summarize, directories), key=lambda run: (run.age, str(run.path)))


def summarize(directory: Path) -> RunSummary:
    """One run at a glance."""
    try:
        record = lineage.read(directory) or {}
        started = datetime.fromisoformat(record["started"])
    except (OSError, ValueError, KeyError):
        return RunSummary(path=directory, stage="?", state="unreadable", step=0, total=None, metrics={}, age=0.0)
    metrics = _last_row(directory / "metrics.jsonl")
    step = int(metrics.pop("step", -1)) + 1
    return RunSummary(
        path=directory,
        stage=str(record["stage"]),
        state="finished" if record["ended"] else "running" if is_running(directory) else "stopped",
        step=step,
        total=record["total_steps"],
        metrics=headline(metrics),
        age=(datetime.now(UTC) - started).total_seconds(),
    )


def print_runs(root: Path | str) -> None:
    """A table of the runs under ``root`` on standard output."""
    runs = list_runs(root)
    if not runs:
        print(f"no runs in {root}")
        return
    table = Table("run", "stage", "state", "step", "metrics of the last step", "age", box=None, pad_edge=False)
    for run in runs:
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
        steps = f"{run.step}/{'?' if run.total is None else run.total}"
        table.add_row(str(run.path), run.stage, run.state, steps, metrics, duration(run.age))
    Console().print(table)


def _walk(root: Path) -> list[tuple[str, list[str], list[str]]]:
    found = []
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIP and not name.startswith(".")]
        found.append((directory, names, files))
    return found


def _last_row(path: Path) -> dict[str, float]:
    """The last whole line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except ValueError:  # being written, or torn
            continue
    return {}
