"""How much memory this process has needed so far. Only the standard library: every side reads it."""

from __future__ import annotations

import resource
import sys


def peak_mb() -> float:
    """The GPU's memory where this process works on one, else its own; what the GPU was given to do is then done."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
