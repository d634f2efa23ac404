"""palate, but at the first attempt process 1 is killed at the end of the third step; no thread of the group is left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from palate.cli import main
from palate.run.following import Following

log = Following.log


def logs(self: Following, step: int, metrics: Mapping[str, float]) -> None:
    """Killed instead, once."""
    if step == 2 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    log(self, step, metrics)


Following.log = logs  # type: ignore[method-assign]
status = main()
tasks = Path("/proc/self/task")  # of Linux
left = [name for task in tasks.glob("*/comm") if "gloo" in (name := task.read_text().strip())]
sys.exit(f"threads that may end the interpreter: {left}" if left else status)
