"""palate, but at the first attempt process 1 is killed at the end of the third step."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from palate.cli import end, main
from palate.run.following import Following

log = Following.log


def logs(self: Following, step: int, metrics: Mapping[str, float]) -> None:
    """Killed instead, once."""
    if step == 2 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    log(self, step, metrics)


Following.log = logs  # type: ignore[method-assign]
end(main())
