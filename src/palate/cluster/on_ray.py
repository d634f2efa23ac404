"""Ray finds machines for the trainers of a run, and notices when one is gone. Nothing else: no stage knows of it.

One placement group with a place for every trainer; at each a keeper, which starts `python -m palate STAGE RECIPE` with
torchrun's environment and passes on what it says. Gradients go from trainer to trainer, models and checkpoints by the
disk: through Ray's object store goes what is said, a few lines at a time.

Left out: machines of different kinds (a run has to have the same bits everywhere), and going on with fewer trainers.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.services import find_bootstrap_address  # nor has this
from ray._private.state import available_resources_per_node  # what is left of each machine has no other name
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from palate.cluster import keeper, leash, places
from palate.cluster.places import Machine, Needs, Place
from palate.cluster.restarting import Ended, Stop
from palate.errors import PeerError, RunError

SAID_AFTER = 20.0
"""Seconds without a place, after which it is said what is missing."""
PLACED_WITHIN = 600.0
"""Seconds, after which nobody waits for a place any more."""
HEAD_PATIENCE = 40.0
"""Seconds that the cluster's head may be out of reach; after 60 Ray ends this process without a word."""
ANSWERED_WITHIN = 120.0
"""Seconds that a machine may take to start an actor, or to answer one."""
_LOOK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One that this process has joined.

    Attributes:
        head: address of what knows all machines, as host and port.
        ours: it was started by us, on this machine alone.
    """

    head: tuple[str, int]
    ours: bool


@contextmanager
def joined(address: str, needs: Needs, say: Callable[[str], None]) -> Iterator[Cluster]:
    """Be in a cluster, which ends with us if it is ours.

    Args:
        address: of its head, ``auto`` for the one that is there or else one of this machine alone, or ``local``.
        needs: how large a cluster of this machine alone has to be.
        say: told when such a one is started.

    Raises:
        RunError: there is none at that address.
    """
    if address.startswith("ray://"):
        raise RunError("Ray's client ends with its connection: send a job instead, with --address http://HOST:8265")
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    ours = address == "local"
    if address == "auto" and not (os.environ.get("RAY_ADDRESS") or find_bootstrap_address(None)):
        # asked for in vain, Ray settles for having no token, and could not talk to what it starts with one
        say("no Ray cluster is here: one of this machine alone is started, and ended afterwards")
        ours = True
    try:
        if direct := re.fullmatch(r"\[?([^/\]]+)\]?:(\d+)", address):  # Ray itself would try for minutes
            socket.create_connection((direct[1], int(direct[2])), timeout=10).close()
        if not ours:
            ray.init(address=address, **quiet)
        else:
            # as many places as are asked for: who starts more trainers than there are cores has said so
            cores = needs.trainers * needs.cpus
            # its watch over memory would end keepers for what others on this machine use; and nobody has to stand back
            alone = {
                "include_dashboard": False,
                "_system_config": {"memory_monitor_refresh_ms": 0, "worker_niceness": 0},
            }
            ray.init("local", num_cpus=cores, object_store_memory=100 * 2**20, **alone, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise RunError(f"no Ray cluster can be used at {address!r}: {why}") from None
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    try:
        yield Cluster(head=(host, int(port)), ours=ours)
    except HeadGone as gone:  # there is nothing to take leave of, and Ray, which tries, does not survive it
        atexit.register(os._exit, PeerError.status)
        raise PeerError(str(gone)) from None
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


class HeadGone(Exception):
    """The machine that knows all the others does not answer."""


class OnRay:
    """As in `restarting.Machines`.

    Args:
        address: of the cluster's head, ``auto`` or ``local``, as `joined` has it.
        directory: that every trainer is started in; all machines see it.
    """

    def __init__(self, address: str, directory: Path) -> None:
        self._address, self._directory = address, directory

    @contextmanager
    def joined(self, needs: Needs, say: Callable[[str], None]) -> Iterator[Callable[[Sequence[str], int, Stop], Gang]]:
        """As in `restarting.Machines`."""
        with joined(self._address, needs, say) as cluster:

            def start(command: Sequence[str], attempt: int, stop: Stop) -> Gang:
                return Gang(cluster, needs, command, directory=self._directory, attempt=attempt, stop=stop, say=say)

            yield start


class Gang:
    """As in `restarting.Placed`.

    Args:
        cluster: that we are in.
        needs: of the gang.
        command: of every trainer, after ``python``.
        directory: to start them in.
        attempt: how often the gang was started before.
        stop: ends the wait for a place.
        say: told what is missing.

    Raises:
        RunError: there is no place for it, or a machine lacks something.
        KeyboardInterrupt: a stop was asked for meanwhile.
    """

    def __init__(
        self,
        cluster: Cluster,
        needs: Needs,
        command: Sequence[str],
        *,
        directory: Path,
        attempt: int,
        stop: Stop,
        say: Callable[[str], None],
    ) -> None:
        self.size, self._head = needs.trainers, Head(cluster.head)
        self._group = placement_group([needs.bundle] * needs.trainers, strategy="PACK")
        self._keepers: list[Any] = []
        self._looks: dict[Any, int] = {}
        try:
            self._wait_for_places(needs, stop, say)
            self._start(cluster, needs, command, directory, attempt)
        except BaseException:
            self.end()
            raise

    def _wait_for_places(self, needs: Needs, stop: Stop, say: Callable[[str], None]) -> None:
        begun, told = time.monotonic(), False
        while not self._group.wait(1):
            self._head.check()
            waited = time.monotonic() - begun
            if stop.asked:
                raise KeyboardInterrupt("stopped before it was placed")
            if waited > SAID_AFTER and not told:
                say(f"{places.what_is_missing(needs, *_machines())}; waiting for it")
                told = True
            if waited > PLACED_WITHIN:
                raise RunError(f"{places.what_is_missing(needs, *_machines())}; waited {PLACED_WITHIN:g} s")

    def _start(self, cluster: Cluster, needs: Needs, command: Sequence[str], directory: Path, attempt: int) -> None:
        ray.cloudpickle.register_pickle_by_value(keeper)
        kind: Any = ray.remote(keeper.Keeper)
        placed = [
            kind.options(
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number),
            ).remote()
            for number in range(needs.trainers)
        ]
        self._keepers = placed
        told = self._answers([each.here.remote() for each in placed])
        found = [Place(machine=name, address=address, gpus=gpus) for name, address, gpus in told]
        order = places.ranks(found)
        self._keepers, self._places = [placed[number] for number in order], [found[number] for number in order]
        meeting = "127.0.0.1" if cluster.ours else self._places[0].address
        port = self._answers([self._keepers[0].listen.remote(meeting)])[0]
        environments = places.environments(self._places, needs, port=port, attempt=attempt)
        if cluster.ours:  # nothing of ours is to be reached from elsewhere
            alone = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
            environments = [{**alone, **each, "MASTER_ADDR": meeting} for each in environments]
        terminal = sys.stderr.isatty()
        if terminal:
            columns, lines = os.get_terminal_size(sys.stderr.fileno())
            environments[0] |= {"COLUMNS": str(columns), "LINES": str(lines)}
        source = Path(leash.__file__).read_text(encoding="utf-8")
        starts = [
            each.start.remote(source, [*command], str(directory), environment, terminal=terminal and not rank)
            for rank, (each, environment) in enumerate(zip(self._keepers, environments, strict=True))
        ]
        if refusals := [why for why in self._answers(starts) if why]:
            raise RunError(refusals[0])
        if self.size > 1:
            self._keepers[0].open_store.remote(meeting)
        self._looks = {each.look.remote(_LOOK): rank for rank, each in enumerate(self._keepers)}

    def _answers(self, asked: Sequence[Any]) -> list[Any]:
        """Of all keepers, who have nothing else to do.

        Raises:
            PeerError: one did not come.
        """
        until = time.monotonic() + ANSWERED_WITHIN
        while len(ray.wait([*asked], num_returns=len(asked), timeout=_LOOK)[0]) < len(asked):
            self._head.check()
            if time.monotonic() > until:
                raise PeerError(f"a machine of the cluster has not answered for {ANSWERED_WITHIN:g} s")
        try:
            return [ray.get(each) for each in asked]
        except RayError as error:
            why = str(error).strip().splitlines()[-1].strip()[:200]
            raise PeerError(f"a machine of the cluster cannot start a trainer, or is gone: {why}") from None

    def ended(self, seconds: float) -> Sequence[Ended]:
        """As in `restarting.Placed`; what they say is passed on."""
        self._head.check()
        found = []
        for ready in ray.wait([*self._looks], num_returns=1, timeout=seconds)[0] if self._looks else ():
            rank = self._looks.pop(ready)
            try:
                said, status = ray.get(ready)
            except ActorUnavailableError:  # the network, perhaps: Ray says later whether it is gone
                said, status = [], None
                time.sleep(_LOOK)
            except RayError as error:
                why = "its machine has too little memory" if isinstance(error, OutOfMemoryError) else ""
                found.append(Ended(rank=rank, status=None, where=self._places[rank].address, why=why))
                continue
            for stream, text in said:
                os.write(stream, text)
            if status is None:
                self._looks[self._keepers[rank].look.remote(_LOOK)] = rank
            else:
                found.append(Ended(rank=rank, status=status, where=self._places[rank].address))
        return found

    def signal(self, number: int) -> None:
        """As in `restarting.Placed`."""
        for rank in self._looks.values():
            self._keepers[rank].signal.remote(number)

    def end(self) -> None:
        """As in `restarting.Placed`; a machine that does not answer is given up."""
        if self._head.gone:
            return
        with suppress(RayError):
            ray.wait([each.end.remote() for each in self._keepers], num_returns=len(self._keepers), timeout=15)
        for each in self._keepers:
            with suppress(RayError):
                ray.kill(each)
        with suppress(RayError):
            remove_placement_group(self._group)


class Head:
    """Whether the cluster's head can be reached; asked for every two seconds at most.

    Args:
        address: of it.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address, self.gone = address, False
        self._reached = self._asked = time.monotonic()

    def check(self) -> None:
        """Whether it is there.

        Raises:
            HeadGone: it has been out of reach for too long.
        """
        if time.monotonic() - self._asked < 2:
            return
        self._asked = time.monotonic()
        with suppress(OSError):
            socket.create_connection(self._address, timeout=2).close()
            self._reached = time.monotonic()
        if (silent := time.monotonic() - self._reached) > HEAD_PATIENCE:
            self.gone = True
            host, port = self._address
            raise HeadGone(
                f"the cluster's head at {host}:{port} has not been there for {silent:.0f} s: start it again, and go on "
                "with --resume"
            )


def _machines() -> tuple[list[Machine], list[Machine]]:
    """What the cluster's machines have, and what is left of it."""
    whole, left = [], []
    available = available_resources_per_node()
    for node in ray.nodes():
        if node["Alive"]:
            address, has = node["NodeManagerAddress"], node["Resources"]
            whole.append(Machine(address=address, cpus=has.get("CPU", 0), gpus=has.get("GPU", 0)))
            free = available.get(node["NodeID"], {})
            left.append(Machine(address=address, cpus=free.get("CPU", 0), gpus=free.get("GPU", 0)))
    return whole, left
