"""Ctrl-C, or the SIGTERM of a scheduler: the first asks for a stop after the current step, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_NOTICE = b"\nstopping after this step; once more stops at once\n"


class StopRequest:
    """Remembers, while it is entered, that a stop was asked for.

    Signals reach the main thread only; entered in another thread it leaves them alone.
    """

    def __init__(self) -> None:
        self.asked = False
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
        if self.asked:
            raise KeyboardInterrupt("stopped at once, after the last checkpoint")
        self.asked = True
        os.write(2, _NOTICE)  # not print: the signal may have come in the middle of one
