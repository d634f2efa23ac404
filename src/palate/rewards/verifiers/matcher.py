"""Run as a program of its own by `pattern.py`: patterns against texts, each text within a time of its own.

Python's `re` looks for signals while it searches, so a timer can end what would not end by itself. The timer counts
computing and not waiting, so that a busy machine does not change a verdict. Imports nothing of ours.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Sequence


class TooSlow(Exception):
    """The time is up."""


def reason(text: str, match: Sequence[re.Pattern[str]], never: Sequence[re.Pattern[str]]) -> str:
    """What is wrong with a text; empty if nothing is."""
    for pattern in match:
        if not pattern.search(text):
            return f"does not match {pattern.pattern!r}"
    for pattern in never:
        if found := pattern.search(text):
            return f"matches {pattern.pattern!r}: {found.group()[:60]!r}"
    return ""


def within(seconds: float, text: str, match: Sequence[re.Pattern[str]], never: Sequence[re.Pattern[str]]) -> str:
    """The same, or that it took too long."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        return reason(text, match, never)
    except TooSlow:
        return f"the patterns took more than {seconds:g} s"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def main() -> None:
    """JSON in, a list of reasons out."""
    asked = json.load(sys.stdin)

    def ends(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGVTALRM, ends)
    match, never = ([re.compile(pattern) for pattern in asked[name]] for name in ("match", "not"))
    json.dump([within(asked["seconds"], text, match, never) for text in asked["texts"]], sys.stdout)


if __name__ == "__main__":
    main()
