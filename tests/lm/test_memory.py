"""What is freed is used again, in a process of its own, since the setting is a process's."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from palate.lm.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
torch.set_num_threads(1)
def step():
    blocks = [torch.ones(size * 2**18) for size in (3, 9, 2, 7, 40) * 8]  # MiB
    while blocks:
        blocks.pop()
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    """Pages that the system had to hand out while a step was repeated.

    By itself the C library sometimes keeps such blocks and sometimes does not; here it is told not to.
    """
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_a_repeated_step_asks_the_system_for_next_to_nothing() -> None:
    assert faults(keep=True) < 10_000 < 100_000 < faults(keep=False)


HELD = """
import torch
from palate.lm.memory import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
def held():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024
blocks = [torch.ones(2**18 * size) for size in (30, 1) * 10]  # MiB; what stays lies above what is freed
del blocks[::2]
kept = held()
give_back_freed_memory()
print(kept - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_what_is_kept_can_be_given_back() -> None:
    given = subprocess.run([sys.executable, "-c", HELD], check=True, capture_output=True, text=True).stdout
    assert int(given) > 250  # of 300 MiB
