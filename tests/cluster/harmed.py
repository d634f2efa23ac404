"""palate, whose trainers come to harm in the third step of the first attempt, as PALATE_HARM says.

`python -m tests.cluster.harmed cluster ...` starts trainers that run this file too. `kill`: process 1 is killed; else a
named pipe, which all processes but the first read to its end before they go on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palate.cli import main
from palate.cluster import restarting
from palate.run.following import Following

log, run = Following.log, restarting.run


def logs(self: Following, step: int, metrics: Mapping[str, float]) -> None:
    """Harmed before, once."""
    if step == 2 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if os.environ["PALATE_HARM"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        Path(os.environ["PALATE_HARM"]).read_bytes()
    log(self, step, metrics)


def runs(machines: Any, command: Sequence[str], *section: Any, **more: Any) -> int:
    """With trainers that come to harm."""
    return run(machines, ["-m", "tests.cluster.harmed", *command[2:]], *section, **more)


if "RANK" in os.environ:
    Following.log = logs  # type: ignore[method-assign]
else:
    restarting.run = runs
sys.exit(main())
