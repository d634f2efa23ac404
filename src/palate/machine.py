"""How much memory this machine has left, asked of the system; the standard library is enough for it.

What a system does not say (where there is no `/proc`) is not guessed. A GPU's memory is asked of torch, elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that could be had now, swap included, or None where the system does not say.

    Linux says it in `/proc/meminfo`; where a control group (version 1 or 2: a container) allows less, that counts.

    Args:
        root: the file system's, for tests.
    """
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in _lines(root / "proc/meminfo"))}
    if "MemAvailable" not in found:
        return None
    swap = int(found["SwapFree"][0]) * 1024
    return int(min([int(found["MemAvailable"][0]) * 1024 + swap, *_left_in_groups(root, swap)]))


def _left_in_groups(root: Path, swap: int) -> Iterator[float]:
    """What the limits of this process's control group and of each one above it leave."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        # a container may see the group's path outside, of which only the last place is mounted: at the top
        top, names = root / "sys/fs/cgroup" / ("memory" if controllers else ""), PurePosixPath(path).parts[1:]
        for group in (top.joinpath(*names[:depth]) for depth in range(len(names) + 1)):
            if controllers:  # version 1
                left = _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes") + swap
                left = min(left, _left(group, "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"))
            else:
                left = _left(group, "memory.max", "memory.current")
                left += min(swap, _left(group, "memory.swap.max", "memory.swap.current"))
            yield left + _cached_files(group)


def _left(group: Path, limit: str, usage: str) -> float:
    try:
        return int((group / limit).read_text()) - int((group / usage).read_text())
    except (OSError, ValueError):  # there is no such limit; version 2 says "max"
        return math.inf


def _cached_files(group: Path) -> int:
    """What counts as used and is given up when a process asks for it; version 1 sums it up under names of its own."""
    counts = dict(line.split() for line in _lines(group / "memory.stat"))
    names = ("active_file", "inactive_file")
    return sum(int(counts.get(f"total_{name}", counts.get(name, 0))) for name in names)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def bytes_meant(text: str) -> int:
    """Bytes that a person means by ``24GB``, ``24 GiB`` or ``800MB``.

    Raises:
        ValueError: it is none of these.
    """
    units = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
    found = re.fullmatch(r"([0-9.]+) ?(\w+)", text.strip())
    if found is None or found[2] not in units:
        raise ValueError(f"{text!r} is no size; write it as 24GB")
    return int(float(found[1]) * units[found[2]])


def gb(size: int) -> str:
    """Bytes for people; small ones in MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
