"""Ctrl-C, or the SIGTERM of a scheduler: the first asks for a stop after the current step, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from palate.run.world import world

_NOTICE = b"\nstopping after this step; once more stops at once\n"
_NOTICE_OF_SEVERAL = b"\nstopping after this step\n"  # whoever started them ends them at once


class StopRequest:
    """Remembers, while it is entered, that a stop was asked for.

    Signals reach the main thread only; entered in another thread it leaves them alone.

    Args:
        says: that it has heard.
    """

    def __init__(self, *, says: bool = True) -> None:
        self.asked, self._says = False, says
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle) or signal.SIG_DFL
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        several = world().size > 1
        if self.asked and not several:
            raise KeyboardInterrupt("stopped at once, after the last checkpoint")
        told, self.asked = self.asked, True
        if self._says and not told and world().rank == 0:  # not print: the signal may have come in the middle of one
            os.write(2, _NOTICE_OF_SEVERAL if several else _NOTICE)
