"""Which process of a gang gets which place, and what it is told in its environment: torchrun's names, nothing of ours.

Pure functions; `on_ray.py` asks them, and does what they say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FORWARDED = ("PYTHONPATH", "TERM", "COLUMNS", "LINES")
FORWARDED_PREFIXES = ("PALATE_", "HF_", "TORCH_", "NCCL_", "GLOO_", "VLLM_")
"""What a process takes from the environment of the command; everything else it has from its own machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a run is to have.

    Attributes:
        trainers: processes that learn.
        engines: processes that sample for them, each at a place of its own.
        cpus: cores of each, and threads.
        gpus: of each; 0 or 1.
    """

    trainers: int
    engines: int = 0
    cpus: int = 1
    gpus: int = 0

    @property
    def bundle(self) -> dict[str, float]:
        """Of one process, as Ray has it."""
        return {"CPU": float(self.cpus)} | ({"GPU": float(self.gpus)} if self.gpus else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one process is.

    Attributes:
        machine: its name in the cluster; several may be on one.
        address: at which the others reach it.
        gpus: that were given to it there, by their numbers.
    """

    machine: str
    address: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine of the cluster has, in all or left."""

    address: str
    cpus: float
    gpus: float


def ranks(places: Sequence[Place]) -> list[int]:
    """Which place the trainer of each rank has: those on one machine follow each other, the first place's first."""
    first = {place.machine: number for number, place in reversed(list(enumerate(places)))}
    return sorted(range(len(places)), key=lambda number: (first[places[number].machine], number))


def environments(
    places: Sequence[Place], needs: Needs, *, port: int, attempt: int, given: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """What each trainer has in its environment, of places in the order of the ranks.

    Ray lets each process see the GPUs that it was given, and no others: as number 0. `LOCAL_RANK` is a number among
    those of the machine. So every trainer sees all GPUs of the gang on its machine, in the order of the ranks.

    Args:
        port: of the store, at the first place.
        attempt: how often the gang was started before.
        given: the environment of the command.
    """
    here = Counter(place.machine for place in places)
    seen: Counter[str] = Counter()
    found = []
    for rank, place in enumerate(places):
        gpus = [number for other in places if other.machine == place.machine for number in other.gpus]
        found.append(
            {
                **forwarded(os.environ if given is None else given),
                "RANK": str(rank),
                "WORLD_SIZE": str(len(places)),
                "LOCAL_RANK": str(seen[place.machine]),
                "LOCAL_WORLD_SIZE": str(here[place.machine]),
                "MASTER_ADDR": places[0].address,
                "MASTER_PORT": str(port),
                "TORCHELASTIC_RESTART_COUNT": str(attempt),
                "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there already, and outlives each trainer
                "OMP_NUM_THREADS": str(needs.cpus),
                "CUDA_VISIBLE_DEVICES": ",".join(gpus),
            }
        )
        seen[place.machine] += 1
    return found


def forwarded(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the command's environment its trainers have."""
    return {
        name: value for name, value in environment.items() if name in FORWARDED or name.startswith(FORWARDED_PREFIXES)
    }


def engine_environment(
    place: Place, needs: Needs, told: Mapping[str, str], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What the engine at this place has in its environment: nothing of the gang, and its token.

    Args:
        told: variables of the run's own.
        given: the environment of the command.
    """
    alone = {"OMP_NUM_THREADS": str(needs.cpus), "CUDA_VISIBLE_DEVICES": ",".join(place.gpus)}
    return {**forwarded(os.environ if given is None else given), **alone, **told}


def missing(needs: Needs, machines: Sequence[Machine], *, placed: int = 0) -> int:
    """How many processes have no place on these machines, of those that have none yet."""
    asked = needs.trainers + needs.engines - placed
    rooms = (
        min(int(each.cpus / needs.cpus), int(each.gpus / needs.gpus) if needs.gpus else asked) for each in machines
    )
    return max(0, asked - sum(rooms))


def what_is_missing(needs: Needs, whole: Sequence[Machine], left: Sequence[Machine], *, placed: int = 0) -> str:
    """Of a cluster that has no place for all now: what is asked for, and what there is.

    Args:
        placed: engines that have their places already.
    """
    each = f"{needs.cpus} {'core' if needs.cpus == 1 else 'cores'}" + (f" and {needs.gpus} GPU" if needs.gpus else "")
    asked = f"{needs.trainers} trainers" if needs.trainers > 1 else "one trainer"
    if needs.engines:
        asked += f" and {needs.engines} {'engine' if needs.engines == 1 else 'engines'}"
    asked += f" of {each}" + (" each" if needs.trainers + needs.engines > 1 else "")
    there = ", ".join(f"{machine.address} with {machine.cpus:g} cores and {machine.gpus:g} GPUs" for machine in whole)
    if never := missing(needs, whole):
        return f"no place for {never} of {asked}: the cluster has {there or 'no machines'}"
    busy = missing(needs, left, placed=placed)
    free = ", ".join(f"{machine.cpus:g} and {machine.gpus:g} at {machine.address}" for machine in left)
    return f"no place for {busy} of {asked}: others use the cluster, and cores and GPUs left are {free}"
