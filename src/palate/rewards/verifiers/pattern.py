"""Regular expressions that a response must match, and those that it must not.

A pattern is searched for anywhere in the response (Python's `re`, `.` matching line ends too if the pattern says
``(?s)``). Some patterns take longer than the universe lasts on some texts, so all of it happens in a process of its own
(`matcher.py`), which gives up on a response after a second of its own computing. Such a response scores 0, and its
reason says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from palate.errors import RewardError
from palate.rewards.verifiers.verdict import Verdict

SECONDS = 1.0
"""Of computing, for all patterns on one response."""
_MATCHER = Path(__file__).with_name("matcher.py")
_TO_BEGIN = 60.0


def verify_patterns(
    responses: Sequence[str], *, must_match: Sequence[str], must_not_match: Sequence[str], seconds: float = SECONDS
) -> list[Verdict]:
    """1 for each response that matches all of the first and none of the second.

    Raises:
        RewardError: the process gave no answer.
    """
    asked = {"match": list(must_match), "not": list(must_not_match), "seconds": seconds, "texts": list(responses)}
    command = [sys.executable, "-I", "-S", "-B", str(_MATCHER)]
    most = _TO_BEGIN + 20 * seconds * len(responses)  # of the wall's time, on a machine with better things to do
    try:
        ran = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, timeout=most, check=True)
        reasons = json.loads(ran.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise RewardError(f"the process that matches patterns gave no answer: {error}") from error
    return [Verdict(float(not reason), reason or "matches") for reason in reasons]
