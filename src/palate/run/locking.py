"""One process at a time works on a run, and whoever looks can tell."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from palate.errors import RunError


def is_running(directory: Path) -> bool:
    """Whether another process is working on the run right now."""
    try:
        os.close(lock(directory, create=False))
    except RunError:
        return True
    except OSError:  # never locked, or not ours to write
        pass
    return False


def lock(directory: Path, *, create: bool = True) -> int:
    """Keep other processes away until the descriptor is closed, which a killed process does too."""
    descriptor = os.open(directory / ".lock", os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        raise RunError(f"{directory}: another process is working on this run") from None
    except OSError:  # a network file system without locks: as safe as it can be there
        pass
    return descriptor
