"""`palate STAGE RECIPE --estimate`: the whole answer, and nothing that stays.

The stage itself is run, twice, in a directory that is deleted: once up to where it says what it will take, and, if
there is room, once more on a little of the data, for two real steps whose time is taken. The first step sets things up;
the second is what a step takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from palate.errors import ModelError
from palate.lm.sources.sketches import asked_about
from palate.machine import gb
from palate.run.checkpoints import Stateful
from palate.run.directory import Run
from palate.run.trackers import duration
from palate.stages.estimate.workload import Workload

T = TypeVar("T")

STEPS = 2
"""Made for their time."""


class Enough(Exception):
    """All is known that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a stage said before its first step: its recipe, its work, the room there is, and what is wrong with it."""

    recipe: Any
    work: Workload
    room: int | None
    short: str


class Trial(Run):
    """A run that ends when enough is known.

    Attributes:
        timed: whether two steps are to be made; else it ends before the weights are read.
        elsewhere: it is asked about another machine.
        advises: if there is no room it finds out what would help, which takes as long as many estimates.
        memory: of that machine, in bytes, if that is known.
        told: what the stage said.
        seconds_a_step: of the last step.
    """

    timed = False
    elsewhere = False
    advises = True
    memory: int | None = None
    told: Told | None = None
    seconds_a_step = 0.0

    def tell(self, recipe: Any, work: Workload, room: int | None, short: str) -> None:
        """Before the weights are read.

        Raises:
            Enough: that was all.
        """
        self.told = Told(recipe=recipe, work=work, room=room, short=short)
        if not self.timed:
            raise Enough

    def steps(self, total: int, *, every: int, keep: int, state: Mapping[str, Stateful]) -> Iterator[int]:
        """Two of them; nothing is saved.

        Raises:
            Enough: after the last.
        """
        for step in range(min(STEPS, total)):
            begun = time.perf_counter()
            yield step
            self.seconds_a_step = time.perf_counter() - begun
            self._next_step = step + 1
        raise Enough

    def say(self, message: str) -> None:
        """Nobody asked."""


def some(run: Run, records: Sequence[T], count: int) -> list[T]:
    """All of them; the first few where only two steps will be made."""
    return list(records[:count] if isinstance(run, Trial) and run.timed else records)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a stage will take: for people, and its seconds, None where they cannot be told."""

    lines: list[str]
    seconds: float | None = None


def estimate(train: Callable[[Any, Run], None], recipe: Any, *, memory: int | None = None, on_gpu: bool = False) -> str:
    """What a stage will take, for people.

    Args:
        train: of the stage.
        recipe: of the run.
        memory: bytes that are left on another machine, which it is asked about; its time is then not measured.
        on_gpu: that machine's is a GPU's.
    """
    return "\n".join(foresee(train, recipe, memory=memory, on_gpu=on_gpu).lines)


def foresee(
    train: Callable[[Any, Run], None], recipe: Any, *, memory: int | None = None, on_gpu: bool = False
) -> Foreseen:
    """The same, with its seconds."""
    elsewhere = on_gpu or memory is not None
    with TemporaryDirectory(prefix="palate-estimate-") as directory:
        told = tell(train, recipe, Path(directory) / "told", memory=memory, on_gpu=on_gpu)
        lines = describe(told, elsewhere=elsewhere)
        if told.short:
            return Foreseen(lines=[*lines, f"it does not fit: {told.short}"])
        if elsewhere:
            return Foreseen(lines=[*lines, "time: not measured; it was asked about another machine"])
        if not told.work.steps:
            return Foreseen(lines=[*lines, "time: not measured; this command has no steps"])
        if told.work.processes > 1:
            return Foreseen(
                lines=[*lines, "time: not measured; here is one process, and weights are divided over more"]
            )
        trial = Trial.open(Path(directory) / "timed", told.recipe)
        trial.timed = True
        try:
            tried = _tried(train, told.recipe, trial)
        except ModelError as error:  # its config alone is here
            return Foreseen(lines=[*lines, f"time: not measured; {error}"])
        step, whole = times(told.work, tried.work, trial.seconds_a_step)
        line = f"time, from two steps here: {step:.1f} s a step, {duration(whole)} in all"
        return Foreseen(lines=[*lines, line], seconds=whole)


def tell(
    train: Callable[[Any, Run], None],
    recipe: Any,
    directory: Path,
    *,
    memory: int | None = None,
    on_gpu: bool = False,
    advises: bool = True,
) -> Told:
    """What a stage says before it reads any weights; its mistakes come to light here too.

    Args:
        directory: of a run that is nothing afterwards.
        memory, on_gpu: of another machine, as in `estimate`.
        advises: it is asked what would help, if there is no room.
    """
    trial = Trial.open(directory, recipe)
    trial.elsewhere, trial.memory, trial.advises = on_gpu or memory is not None, memory, advises
    token = asked_about.set("cuda" if on_gpu else "")
    try:
        return _tried(train, recipe, trial)
    finally:
        asked_about.reset(token)


def _tried(train: Callable[[Any, Run], None], recipe: Any, trial: Trial) -> Told:
    with suppress(Enough):
        train(recipe, trial)
    assert trial.told is not None, "a stage that says what it will take says so before it ends"
    return trial.told


def describe(told: Told, *, elsewhere: bool) -> list[str]:
    """Memory by part at the moment that needs most, the other moments, and tokens."""
    peak = told.work.peak
    each = "" if told.work.processes == 1 else f" of each of {told.work.processes} processes"
    lines = [f"memory{each} at the peak, {peak.name}: {gb(peak.total)}"]
    lines += [f"  {name:<14} {gb(size):>10}" for name, size in sorted(peak.parts.items(), key=lambda item: -item[1])]
    others = {moment.name: 0 for moment in told.work.moments() if moment.name != peak.name}
    for moment in told.work.moments():
        if moment.name in others:
            others[moment.name] = max(others[moment.name], moment.total)
    lines += [f"memory while {name}: {gb(size)}" for name, size in others.items()]
    where = "asked about" if elsewhere else "left on this machine"
    lines += [] if told.room is None else [f"{where}: {gb(told.room)}"]
    tokens = getattr(told.recipe, "microbatch_tokens", None)
    lines += [] if tokens is None else [f"microbatch_tokens = {tokens}"]
    steps = told.work.steps
    lines.append(f"tokens in the data: {told.work.data:,}")
    if not steps:
        lines.append(f"tokens drawn and scored, at most: {told.work.beside:,}")
    if steps:
        lines.append(f"tokens a step: {sum(steps) // len(steps):,}, at most {max(steps):,}")
        lines.append(f"tokens in {len(steps):,} steps: {sum(steps):,}")
    return [*lines, *told.work.notes]


def times(work: Workload, tried: Workload, seconds: float) -> tuple[float, float]:
    """Seconds of a step and of the run, by tokens, from those of one step; a pass without gradients counts a third."""
    second = tried.steps[min(STEPS, len(tried.steps)) - 1]
    whole = seconds / max(1, second) * (sum(work.steps) + work.beside / 3)
    step = seconds / max(1, second) * sum(work.steps) / len(work.steps)
    return step, whole
