"""How the benchmark talks to a side: one line in, one iteration, one line out.

A side is a process that is started once, does an iteration, says what it is, and then does one iteration for every line
it reads. So two sides can take turns on one machine, each with its models loaded and its caches warm,
while the other one sleeps. Only the standard library is used: every side has an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from peak import peak_mb

_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # whatever libraries print goes to standard error


class Gate:
    """Stands between two iterations, also of a training loop that belongs to a library.

    Call `begin` before and `end` after each; the first does not wait.
    """

    def __init__(self, **about: Any) -> None:
        self.about = about | {"python": sys.version.split()[0]}
        self.warm = False
        self._started = 0.0

    def begin(self) -> None:
        """Wait for the word; at the end of the input leave."""
        if self.warm and not sys.stdin.readline():
            _out.flush()
            os._exit(0)  # a training loop that is in the middle of its run has nothing to clean up
        self._started = time.perf_counter()

    def end(self, **facts: Any) -> None:
        """Say how long it took, how much memory the process has needed so far, and what was done."""
        peak = peak_mb()  # what a GPU was given to do is done after this
        said = {"seconds": time.perf_counter() - self._started, "peak_mb": peak} | facts
        _out.write(json.dumps(said if self.warm else said | {"about": self.about}) + "\n")
        _out.flush()
        self.warm = True
