"""A cluster that does what a script says: how the trainers of each gang end, in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    """

    def __init__(self, size: int, script: Sequence[Sequence[End]], on_look: Callable[[int], None]) -> None:
        self.size, self._script, self._on_look = size, iter(enumerate(script)), on_look
        self.signals: list[int] = []
        self.was_ended = False

    def ended(self, seconds: float) -> Sequence[Ended]:
        number, found = next(self._script)
        self._on_look(number)
        return [Ended(rank=rank, status=status, where="10.0.0.1") for rank, status in found]

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def end(self) -> None:
        self.was_ended = True


class ScriptedMachines:
    """Gives a gang for each script; an exception in the place of one is raised instead.

    Attributes:
        needs: that were asked for.
        commands: of every attempt.
        gangs: that were started.
    """

    def __init__(self, *scripts: Any, on_look: Callable[[int], None] = lambda number: None) -> None:
        self._scripts, self._on_look = iter(scripts), on_look
        self.needs: Needs | None = None
        self.commands: list[tuple[int, Sequence[str]]] = []
        self.gangs: list[ScriptedGang] = []

    @contextmanager
    def joined(
        self, needs: Needs, say: Callable[[str], None]
    ) -> Iterator[Callable[[Sequence[str], int, Stop], ScriptedGang]]:
        self.needs = needs

        def start(command: Sequence[str], attempt: int, stop: Stop) -> ScriptedGang:
            self.commands.append((attempt, command))
            script = next(self._scripts)
            if isinstance(script, Exception):
                raise script
            self.gangs.append(ScriptedGang(needs.trainers, script, self._on_look))
            return self.gangs[-1]

        yield start
