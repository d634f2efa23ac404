"""Memory that was asked for once is kept.

The C library gives large blocks, and what is free at the end of its heap, back to the system, and the system clears
every page that it hands out again. A training step asks for the same few gigabytes at every microbatch: up to a fifth
of its time went there.
"""

from __future__ import annotations

import ctypes
import functools
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process use again whatever it frees; false where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # -1: never; any number is at most 2 GiB here, and PPO frees more than that at once
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Let the system have what is free now, between two pieces of work that need memory of other sizes."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
