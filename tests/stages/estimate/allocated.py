"""How much memory tensors really took: what torch's allocator gave out and got back, followed by its profiler."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter

from torch.profiler import ProfilerActivity, profile

from palate.lm.memory import give_back_freed_memory


def peak(compute: Callable[[], object]) -> int:
    """The most bytes that were allocated at any time while this was computed, beyond what was there before."""
    return max(_followed(compute))


def left(compute: Callable[[], object]) -> int:
    """The bytes that were still allocated when its result had been thrown away."""
    return _followed(compute)[-1]


def _followed(compute: Callable[[], object]) -> list[int]:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        compute()
    assert watched.profiler is not None
    found = [
        (event.start_ns(), event.nbytes())
        for event in watched.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    del watched  # it noted every operation: a gigabyte of a few seconds
    gc.collect()
    give_back_freed_memory()
    return list(accumulate((size for _, size in sorted(found, key=itemgetter(0))), initial=0))
