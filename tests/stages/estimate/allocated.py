"""How much memory tensors really took: what torch's allocator gave out and got back, followed by its profiler."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


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
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = [0]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live.append(live[-1] + event.nbytes())
    return live
