"""A run as those processes have it that write nothing: the first one does, and says what there is to say."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palate.run import checkpoints, lineage
from palate.run.checkpoints import Stateful
from palate.run.directory import Run
from palate.run.trackers import Terminal
from palate.run.world import world


class Following(Run):
    """The same steps, checks and answers; they come from the first process wherever its files are asked.

    Args:
        directory: the run's, on a disk that all processes see.
        record: its lineage, as the first process has it.
        resumed: it was started before.
        begun: and made steps.
    """

    def __init__(self, directory: Path, record: dict[str, Any], *, resumed: bool, begun: bool) -> None:
        self.directory, self.resumed, self.stage = directory, resumed, str(record["stage"])
        self._record, self._trackers, self._terminal = record, (), Terminal()
        self._notes: list[str] = []
        self._begun, self._accepts_changed_data = begun, True  # the first process refuses what it does not accept
        self._metrics: dict[str, float] = {}
        self._next_step = 0
        self._seconds_before, self._clock = 0.0, time.monotonic()

    def say(self, message: str) -> None:
        """The first process has said it."""

    def samples(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """The first process has kept them."""

    def _write_record(self) -> None:
        pass

    def append(self, name: str, text: str) -> None:
        """The first process has added it."""

    def rewrite(self, name: str, text: str) -> None:
        """The first process has replaced it."""

    def _save(self, state: Mapping[str, Stateful], keep: int) -> None:
        checkpoints.assist(self.directory / "checkpoints", self._next_step, state)

    def _restore(self, state: Mapping[str, Stateful]) -> None:
        step = world().once(lambda: None, "the checkpoint to be read")
        if step is not None:
            self._take(checkpoints.read(self.directory / "checkpoints", step, state), state)


def goes_on(directory: Path) -> bool:
    """Whether torchrun has started all processes again, after the run in the directory had begun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and (directory / lineage.FILE).exists()
