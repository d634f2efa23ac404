"""Code that nobody has read, run where it can do little: each time in a process of its own (`jail.py`).

It has no network, sees no file but Python's own, writes into a scratch directory in memory that is gone afterwards, and
ends with all it started after its time. What this does *not* protect against: faults of the kernel, which it shares
with everything else; being slowed down (its memory and processors are the machine's; the limit on memory is of each of
up to eight processes); and a response that deceives its own tests, which run in the same interpreter: it can return
what equals everything, or look for the verdict's password in memory. Read what scores well.

Without namespaces (not Linux, or a container that forbids them) nothing is run, unless a setting says that limits are
enough: then the code can read and write the user's files, reach the network and leave processes behind; where the user
is root nothing limits how many.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from palate.errors import RewardError
from palate.rewards.verifiers.verdict import Verdict

_JAIL = Path(__file__).with_name("jail.py")
_TO_BEGIN = 60.0
OUTPUT_BYTES = 65536
"""Most that the code may write to its standard output and error; nobody reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What code may take.

    Attributes:
        seconds: of the wall's time, for all it starts.
        memory_mb: MiB of address space, for each process.
        isolated: cut off from network, files and processes; otherwise limits alone.
    """

    seconds: float
    memory_mb: int
    isolated: bool = True

    def run(self, code: str, tests: str) -> Verdict:
        """1 if the code, and then the tests in the same module, ran to their end without an exception.

        Raises:
            RewardError: nothing was run, because it cannot be isolated here, or the sandbox itself failed.
        """
        asked = {
            "code": code,
            "tests": tests,
            "seconds": self.seconds,
            "memory_mb": self.memory_mb,
            "isolated": self.isolated,
            "output_bytes": OUTPUT_BYTES,
        }
        command = [sys.executable, "-s", "-S", "-B", "-P", str(_JAIL)]
        try:
            ran = subprocess.run(
                command,
                input=json.dumps(asked).encode(),
                capture_output=True,
                timeout=self.seconds + _TO_BEGIN,
                env={"PYTHONHASHSEED": "0"},  # the order of sets is no source of chance
                start_new_session=True,
                check=True,
            )
            refused, reason = json.loads(ran.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            said = getattr(error, "stderr", None) or b""
            raise RewardError(f"the sandbox failed: {error} {said.decode(errors='replace')[-200:]}") from error
        if refused:
            raise RewardError(
                f"code cannot be cut off from network and files here ({refused}): nothing was run. Where the machine "
                'itself may be lost, set isolation = "limits"'
            )
        return Verdict(float(not reason), reason or "its tests passed")
