"""A cluster that does what a script says: how the trainers of each gang end, in what order, and what its engines do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from palate.cluster.places import Needs
from palate.cluster.restarting import Ended, Stop

End = tuple[int, int | None]
"""A trainer's rank, and its status; None: its machine is gone."""


class ScriptedGang:
    """Trainers that end as they are told to.

    Args:
        script: what each look finds.
        on_look: called at each, with its number.
        events: is told of the end.
    """

    def __init__(
        self, size: int, script: Sequence[Sequence[End]], on_look: Callable[[int], None], events: list[str]
    ) -> None:
        self.size, self._script, self._on_look, self._events = size, iter(enumerate(script)), on_look, events
        self.signals: list[int] = []
        self.was_ended = False

    def ended(self, seconds: float) -> Sequence[Ended]:
        number, found = next(self._script)
        self._on_look(number)
        return [Ended(rank=rank, status=status, where="10.0.0.1") for rank, status in found]

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def end(self) -> None:
        self._events.append("trainers end")
        self.was_ended = True


class ScriptedEngines:
    """Engines that can be asked after some looks, and end as they are told to.

    Args:
        script: what each look finds; nothing, once it is over.
        late: looks before they can be asked.
        on_look: called when it is asked whether they answer.
        events: is told of the end.
    """

    def __init__(
        self, count: int, script: Sequence[Sequence[End]], late: int, on_look: Callable[[], None], events: list[str]
    ) -> None:
        self.addresses = [f"http://10.0.0.{number}:8300" for number in range(count)]
        self._script, self._late, self._on_look, self._events = iter(script), late, on_look, events
        self.was_ended = False

    def answer(self) -> bool:
        self._on_look()
        self._late -= 1
        return self._late < 0

    def ended(self, seconds: float) -> Sequence[Ended]:
        found = next(self._script, ())
        return [Ended(rank=rank, status=status, where="10.0.0.9", kind="engine") for rank, status in found]

    def end(self) -> None:
        self._events.append("engines end")
        self.was_ended = True


class ScriptedMachines:
    """Gives a gang for each script; an exception in the place of one is raised instead.

    Args:
        engines_end: what each look at the engines finds.
        engines_late: looks before they can be asked.
        on_engines: called at each of these.

    Attributes:
        needs: that were asked for.
        commands: of every attempt.
        gangs: that were started.
        served: the engines, if there are some.
        engine_command: of each of them.
        events: what happened, in order.
        told: variables of the environment of everything that was started.
    """

    def __init__(
        self,
        *scripts: Any,
        on_look: Callable[[int], None] = lambda number: None,
        engines_end: Sequence[Sequence[End]] = (),
        engines_late: int = 0,
        on_engines: Callable[[], None] = lambda: None,
    ) -> None:
        self._scripts, self._on_look = iter(scripts), on_look
        self._of_engines = (engines_end, engines_late, on_engines)
        self.needs: Needs | None = None
        self.commands: list[tuple[int, Sequence[str]]] = []
        self.gangs: list[ScriptedGang] = []
        self.served: ScriptedEngines | None = None
        self.engine_command: Sequence[str] = ()
        self.events: list[str] = []
        self.told: list[Mapping[str, str]] = []

    @contextmanager
    def joined(self, needs: Needs, say: Callable[[str], None]) -> Iterator[ScriptedMachines]:
        self.needs = needs
        yield self

    def trainers(self, command: Sequence[str], attempt: int, stop: Stop, told: Mapping[str, str]) -> ScriptedGang:
        assert self.needs is not None
        self.events.append("trainers")
        self.commands.append((attempt, command))
        self.told.append(told)
        script = next(self._scripts)
        if isinstance(script, BaseException):
            raise script
        self.gangs.append(ScriptedGang(self.needs.trainers, script, self._on_look, self.events))
        return self.gangs[-1]

    def engines(self, command: Sequence[str], stop: Stop, told: Mapping[str, str]) -> ScriptedEngines:
        assert self.needs is not None
        self.events.append("engines")
        self.engine_command = command
        self.told.append(told)
        self.served = ScriptedEngines(self.needs.engines, *self._of_engines, self.events)
        return self.served
