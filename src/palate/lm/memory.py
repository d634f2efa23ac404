"""Memory that was asked for once is kept.

The C library sometimes gives blocks back to the system soon after they are free, and the system clears every page that
it hands out again. A training step asks for the same few gigabytes at every microbatch: up to a tenth of its time went
there.
"""

from __future__ import annotations

import ctypes
import functools
import platform

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_ALWAYS_RETURNED = 2**25
"""Bytes from which a block is still given back: kept as well, the largest would leave holes that nothing else fills."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process use again what it frees in blocks below 32 MiB; false where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _ALWAYS_RETURNED)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
