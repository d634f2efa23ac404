"""Runs of a workspace that wait for people to compare clips, and where their pictures are.

A run is found by listing the workspace's runs, so that a name from a browser never becomes a path; and whatever the
database says, nothing outside of them is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from palate.errors import DataError, NotFoundError
from palate.records import Candidates
from palate.stages.agent.clip_answers import NAME, PAIRS, waiting
from palate.studio.web.workspace import Workspace

DEPTH = 3
"""How far below ``runs/`` a run may lie: runs/pendulum/learned/seed-0."""

_MOVES = re.compile(r"<animate [^>]*/>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A run that waits for people.

    Attributes:
        run: its directory, from the workspace.
        pairs: what it asks.
        problem: why that cannot be read.
    """

    run: str
    pairs: Sequence[Candidates]
    problem: str = ""


def runs_that_wait(home: Workspace) -> list[Waiting]:
    """Every run of the workspace that asks for comparisons which nobody has dealt with, by name."""
    found = []
    for directory in sorted(_asking(home.runs)):
        run = directory.relative_to(home.directory).as_posix()
        try:
            pairs = waiting(directory)
        except DataError as error:
            found.append(Waiting(run=run, pairs=(), problem=str(error).replace(str(home.directory), ".")))
            continue
        if pairs:
            found.append(Waiting(run=run, pairs=pairs))
    return found


def picture(home: Workspace, run: str, name: str, *, still: bool) -> str:
    """A clip as SVG.

    Args:
        name: as the run's records have it.
        still: its first moment alone.

    Raises:
        NotFoundError: there is none of that name, or it is gone with its run.
    """
    if not NAME.fullmatch(name):
        raise NotFoundError("no such clip")
    try:
        drawn = inside(home, run, name).read_text(encoding="utf-8")
    except OSError:
        raise NotFoundError("this clip is gone: its run is not there any more") from None
    return _MOVES.sub("", drawn) if still else drawn


def inside(home: Workspace, run: str, name: str = "") -> Path:
    """A path of a run.

    Raises:
        NotFoundError: it is not below the workspace's runs, or is not there.
    """
    path = (home.directory / PurePosixPath(run) / name).resolve()
    if not path.is_relative_to(home.runs.resolve()) or not path.exists():
        raise NotFoundError("this run is not there any more")
    return path


def _asking(runs: Path) -> Iterator[Path]:
    for depth in range(1, DEPTH + 1):
        for file in runs.glob(f"{'*/' * depth}{PAIRS}"):
            if file.resolve().is_relative_to(runs.resolve()):
                yield file.parent
