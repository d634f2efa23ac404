"""Is there room for the demonstration? Asked before anything is made, so that the answer no is one line.

    PYTHONPATH=src python3 -m palate.demo.needs .venv full     room for the installation and the demonstration after it
    PYTHONPATH=src python3 -m palate.demo.needs .venv          room for the installation

The Makefile asks so before there is an environment: only the standard library is imported here. What a system does not
say (memory, where there is no `/proc`) is not guessed, and nobody is turned away for it. Left out: quotas, `ulimit`,
and the memory of a GPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from palate.errors import MachineError
from palate.machine import available_memory, gb


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a demonstration takes, in bytes: measured, and rounded up.

    Attributes:
        disk: what its directory holds at most, with the checkpoint that is being written.
        model: what the converted model holds in the cache.
        memory: what the process holds at most, beyond what it holds when everything is imported.
    """

    disk: int
    model: int
    memory: int


NEEDS = {
    "full": Needs(disk=3_000_000_000, model=600_000_000, memory=4_500_000_000),
    "quick": Needs(disk=3_000_000_000, model=600_000_000, memory=3_000_000_000),
    "tiny": Needs(disk=20_000_000, model=1_000_000, memory=200_000_000),
}
"""By the name of the scale. torch holds 0.4 GB when it is imported, which is not in here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """What the installation takes, in bytes: measured, and rounded up.

    Attributes:
        wheels: what is downloaded. pip keeps it twice, until it is installed and in its cache.
        installed: the environment, with what the tests need.
    """

    wheels: int
    installed: int


PLAIN = Packages(wheels=700_000_000, installed=2_400_000_000)
WITH_CUDA = Packages(wheels=3_300_000_000, installed=6_500_000_000)


def check(needs: Needs, out: Path, model: Path) -> None:
    """Whether a demonstration, or what is left of it, has room.

    Args:
        needs: what a whole one takes.
        out: its directory; what is in it need not be written again.
        model: the directory in the cache that the model is converted into.

    Raises:
        MachineError: a disk or the memory is too small, or cannot be written to; says how much is needed, how much is
            there and what to do.
    """
    for place, option in ((out, "--out"), (model, "PALATE_CACHE")):
        if not os.access(_existing(place), os.W_OK):
            raise MachineError(f"{_existing(place)} cannot be written to: name another directory with {option}")
    places = [(out, 0 if (out / "report.json").exists() else needs.disk - _size(out))]
    places.append((model, 0 if model.exists() else needs.model))
    _check_disk("the demonstration", places, "or name directories elsewhere with --out and PALATE_CACHE")
    _check_memory(needs)


def check_installation(environment: Path, scale: str = "") -> None:
    """Whether there is room for an environment, and for the demonstration of a scale after it.

    Raises:
        MachineError: a disk or the memory is too small.
    """
    cuda = _brings_cuda()
    packages, home = WITH_CUDA if cuda else PLAIN, Path(os.path.expanduser("~"))
    places = [(environment, packages.installed - _size(environment)), (Path(tempfile.gettempdir()), packages.wheels)]
    if os.access(_existing(home), os.W_OK):  # else pip does without a cache
        places.append((home, packages.wheels))
    if scale:
        places += [(environment, NEEDS[scale].disk), (home, NEEDS[scale].model)]
    smaller = "or take torch without CUDA: set PIP_EXTRA_INDEX_URL to the address that PyTorch names for its CPU builds"
    _check_disk("the installation", places, smaller if cuda else "or clone the repository onto another disk")
    if scale:
        _check_memory(NEEDS[scale])


def _check_memory(needs: Needs) -> None:
    memory = available_memory()
    if memory is None or memory >= needs.memory:
        return
    quick = NEEDS["quick"].memory
    less = f", or look at the scale `quick`, which needs {gb(quick)}" if quick < needs.memory else ""
    raise MachineError(
        f"the demonstration needs {gb(needs.memory)} of memory, and {gb(memory)} are available here: "
        f"end other programs, or give this container or virtual machine more{less}"
    )


def _check_disk(what: str, places: Iterable[tuple[Path, int]], advice: str) -> None:
    """Whether every disk has room for what will lie on it, by the directories that will hold it."""
    needed: dict[int, int] = defaultdict(int)
    existing: dict[int, Path] = {}
    for place, size in places:
        directory = _existing(place)
        device = directory.stat().st_dev
        needed[device] += max(size, 0)
        existing.setdefault(device, directory)
    for device, directory in existing.items():
        free = shutil.disk_usage(directory).free
        if free < needed[device]:
            raise MachineError(
                f"{what} needs {gb(needed[device])} on the disk of {directory}, and {gb(free)} are free: "
                f"free some space, {advice}"
            )


def _brings_cuda() -> bool:
    """Whether pip's torch comes with CUDA: PyPI's does on Linux; what an index of the user's own has is not known."""
    if platform.system() != "Linux":
        return False
    if os.environ.keys() & {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"}:
        return False
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return "index-url" not in asked.stdout and "find-links" not in asked.stdout


def _existing(place: Path) -> Path:
    """The place, or the nearest directory above it that is there."""
    absolute = place.absolute()
    return next(path for path in (absolute, *absolute.parents) if os.path.exists(path))


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def main(argv: Sequence[str]) -> int:
    """Ask for the installation; exit status 2 and a line if there is no room."""
    try:
        check_installation(Path(argv[0]), *argv[1:])
    except MachineError as error:
        print(f"palate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
