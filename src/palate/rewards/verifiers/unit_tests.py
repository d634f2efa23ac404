"""Unit tests of code: a response is right if it passes the tests that come with its prompt.

The code is the response's last fenced block, or all of it if there is none. Code and tests run in one module, one after
the other, as in HumanEval (Chen et al. 2021, arXiv 2107.03374) and MBPP: `assert add(1, 2) == 3`. All or nothing. What
keeps it from harm is in `sandbox.py`, with what does not.

Left out: languages other than Python, and packages beyond its standard library.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from palate.records import Prompt
from palate.rewards.verifiers.sandbox import Sandbox
from palate.rewards.verifiers.verdict import Verdict, known

_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", flags=re.M | re.S)


def verify_code(prompts: Sequence[Prompt], responses: Sequence[str], sandbox: Sandbox, *, tag: str) -> list[Verdict]:
    """[B], as many at once as there are processors.

    Raises:
        RewardError: a prompt has no tests in its tag, or code cannot be isolated here.
    """
    tests = [known(prompt, tag) for prompt in prompts]

    def one(code: str, its_tests: str) -> Verdict:
        return sandbox.run(code, its_tests) if code.strip() else Verdict(0.0, "no code")

    with ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        return list(pool.map(one, map(code_of, responses), tests))


def code_of(response: str) -> str:
    """The last fenced block, or the whole response."""
    blocks = _FENCED.findall(response)
    return str(blocks[-1]) if blocks else response
