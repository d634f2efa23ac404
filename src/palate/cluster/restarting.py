"""A gang is started, watched, and started again when one of it is gone, whoever places its processes.

    all end with 0              done
    one ends with 2 or 130      a mistake that was told, or a stop that was asked for: so do we
    anything else, or lost      the others end too, and all are started again: from the newest checkpoint

The stages do the rest: a trainer whose peer is gone says so and ends, and all go on from what was saved.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from palate.cluster.places import Needs
from palate.cluster.serving import VARIABLE, Engines, Served, engine_settings, wait_for
from palate.errors import PeerError
from palate.run.signals import StopRequest

if TYPE_CHECKING:
    from palate.recipe import Cluster

GRACE = 30.0
"""Seconds in which the others of a gang notice that one is gone, before they are ended."""
MISTAKE, STOPPED = 2, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a trainer ended, or an engine.

    Attributes:
        rank: its number.
        status: of its process, negative for a signal; None: its machine is gone.
        where: the machine's address.
        why: it is gone, if anybody knows.
        kind: what it was.
    """

    rank: int
    status: int | None
    where: str
    why: str = ""
    kind: str = "trainer"

    def __str__(self) -> str:
        if self.status is None:
            why = self.why or "its machine is gone, or what looked after it there"
            return f"{self.kind} {self.rank} on {self.where} is lost: {why}"
        if self.status < 0:
            return f"{self.kind} {self.rank} on {self.where} was ended by {signal.Signals(-self.status).name}"
        return f"{self.kind} {self.rank} on {self.where} ended with status {self.status}"


class Placed(Protocol):
    """Trainers that have been started, each at its place."""

    size: int

    def ended(self, seconds: float) -> Sequence[Ended]:
        """Which of them have ended since the last call; waits so long for one, and passes on what they say."""
        ...

    def signal(self, number: int) -> None:
        """To every one that runs."""
        ...

    def end(self) -> None:
        """Of whatever still runs, and give back their places."""
        ...


class Stop(Protocol):
    """Whether a stop was asked for, as `run/signals.py` has it."""

    asked: bool


class Joined(Protocol):
    """Machines on which a run can be started."""

    def trainers(self, command: Sequence[str], attempt: int, stop: Stop, told: Mapping[str, str]) -> Placed:
        """Start a gang.

        Args:
            command: of each, after ``python``.
            attempt: how often that was done before.
            stop: ends the wait for places.
            told: variables of their environment.
        """
        ...

    def engines(self, command: Sequence[str], stop: Stop, told: Mapping[str, str]) -> Engines:
        """Start the engines; they cannot be asked yet. Arguments as of `trainers`."""
        ...


class Machines(Protocol):
    """Where a run can be placed."""

    def joined(self, needs: Needs, say: Callable[[str], None]) -> AbstractContextManager[Joined]:
        """Gives what starts so many processes there."""
        ...


def run(
    machines: Machines,
    command: Sequence[str],
    section: Cluster,
    *,
    say: Callable[[str], None],
    engine: Sequence[str] = (),
    weights: Path | None = None,
) -> int:
    """Run a command as a gang until it is done, or has to be given up; the exit status.

    Engines are started before it, and end after it: whatever happens.

    Args:
        machines: where.
        command: of every trainer, after ``python``.
        section: of the recipe: how many, what each needs, how often they are started again.
        say: told what goes on, one line at a time.
        engine: command of every engine, after ``python``.
        weights: folder in which the trainers put weights for the engines; it is gone when they end.

    Raises:
        PeerError: a trainer was lost too often, or an engine is gone.
        RunError: an engine could not be started.
        KeyboardInterrupt: a stop was asked for before the trainers were started, or twice.
    """
    needs = Needs(trainers=section.trainers, engines=section.engines, cpus=section.cpus, gpus=section.gpus)
    with machines.joined(needs, say) as place, StopRequest(says=False) as stop:  # the first trainer says it

        def kept(start: Callable[[int], Placed]) -> int:
            return keep_going(start, restarts=section.restarts, stop=stop, say=say)

        if not needs.engines:
            return kept(lambda attempt: place.trainers(command, attempt, stop, {}))
        told = {VARIABLE: secrets.token_urlsafe(32)}
        engines = place.engines(engine, stop, told)
        try:
            wait_for(engines, stop)
            asking = [*command, "--set", *engine_settings(engines.addresses, weights)]
            return kept(lambda attempt: Served(place.trainers(asking, attempt, stop, told), engines))
        finally:
            engines.end()
            if weights is not None:  # a trainer that was killed has left its own there
                shutil.rmtree(weights, ignore_errors=True)


def keep_going(
    start: Callable[[int], Placed],
    *,
    restarts: int,
    stop: Stop,
    say: Callable[[str], None],
    grace: float = GRACE,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Start a gang, and again whenever one of it is lost, at most so often; the exit status.

    A machine that is lost while the gang is being started counts as well.

    Args:
        start: gives the gang of attempt 0, 1, ...
        restarts: how many there may be.
        stop: is passed on to the trainers, which finish their step and write a checkpoint.
        say: told of every restart.

    Raises:
        PeerError: one was lost once more than that.
    """
    why = ""
    for attempt in range(restarts + 1):
        if attempt:
            say(f"{why}: all are started again, from the newest checkpoint; restart {attempt} of {restarts}")
        try:
            gang = start(attempt)
        except PeerError as error:
            why = str(error)
            continue
        try:
            ends = _watched(gang, stop, grace=grace, clock=clock)
        finally:
            gang.end()
        statuses = {end.status for end in ends}
        if not ends or MISTAKE in statuses:
            return MISTAKE if ends else 0
        if STOPPED in statuses or stop.asked:
            return STOPPED
        why = str(_cause(ends))
    times = "once" if restarts == 1 else f"{restarts} times"
    tried = f", after all were started again {times}" if restarts else ""
    raise PeerError(f"{why}{tried}; go on with --resume")


def _watched(gang: Placed, stop: Stop, *, grace: float, clock: Callable[[], float]) -> list[Ended]:
    """How those ended that did not come to the end of their work, the first of them first."""
    running, told, since = gang.size, False, None
    bad: list[Ended] = []
    while running:
        if stop.asked and not told:
            gang.signal(signal.SIGINT)
            told = True
        ended = gang.ended(0.5)
        running -= len(ended)
        bad += [each for each in ended if each.status != 0]
        if bad and since is None:
            since = clock()
        if since is not None and clock() - since > grace:
            break
    return bad


def _cause(ends: Sequence[Ended]) -> Ended:
    """Whoever was lost, before those that ended because of it."""
    return min(ends, key=lambda end: end.status is not None and end.status >= 0)
