"""Where a run came from: `lineage.json`, enough to say in a year what made a model and to make it again.

It names the recipe, hashes of everything read, versions, the machine, the work tree's commit, start and end, and the
runs whose models or data went in (its parents). It is also what makes a directory a run: it is written last.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from palate import disk

FILE = "lineage.json"
_PACKAGES = ("palate", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def begin(stage: str, recipe: Mapping[str, Any], recipe_hash: str) -> dict[str, Any]:
    """The lineage of a run that starts now."""
    return {
        "stage": stage,
        "recipe": recipe_hash,
        "started": now(),
        "resumed": [],
        "ended": None,
        "total_steps": None,
        "inputs": {},
        "parents": parents(recipe),
        "commit": commit(),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "cpu_count": os.cpu_count(),
    }


def read(directory: Path) -> dict[str, Any] | None:
    """The lineage of the run in ``directory``; None if there is no run."""
    try:
        lineage = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(lineage, dict) or "ended" not in lineage:
        raise ValueError(f"{directory / FILE} is not a run's lineage")
    return lineage


def reopen(directory: Path) -> None:
    """More is asked of what was finished, so it goes on."""
    lineage = read(directory)
    if lineage is not None and lineage["ended"] is not None:
        disk.write_text(directory / FILE, disk.json_text(lineage | {"ended": None}, indent=2) + "\n")


def now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on, without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """Commit of the work tree the command runs in, with ``-dirty`` if it has changes; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def parents(recipe: Mapping[str, Any]) -> list[dict[str, str]]:
    """The runs that the recipe's paths point into."""
    found = {}
    for _, value in flatten(recipe):
        for part in value.split(",") if isinstance(value, str) else ():
            if part.strip() and (parent := _run_around(Path(part.strip()))) is not None:
                found[parent["path"]] = parent
    return list(found.values())


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of mappings and sequences."""
    if isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in items:
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _run_around(path: Path) -> dict[str, str] | None:
    for directory in (path, path.parent):
        try:
            lineage = read(directory)
        except (OSError, ValueError):  # a path with a character or length that no file has, or a file of another tool
            continue
        if lineage is not None:
            return {"path": str(directory), **{key: str(lineage.get(key)) for key in ("stage", "recipe", "started")}}
    return None
