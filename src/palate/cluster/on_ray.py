"""Ray finds machines for the processes of a run, and notices when one is gone. Nothing else: no stage knows of it.

A placement group with a place for every trainer; at each a keeper, which starts `python -m palate STAGE RECIPE` with
torchrun's environment and passes on what it says. Engines have a group and keepers of their own, as they stay when
trainers are placed anew. Gradients go from trainer to trainer, models and checkpoints by the disk: through Ray's object
store goes what is said, a few lines at a time.

Left out: machines of different kinds (a run has to have the same bits everywhere), and going on with fewer trainers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # what is left of each machine has no other name
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from palate.cluster import keeper, places
from palate.cluster.joining import Cluster, Head, joined
from palate.cluster.places import Machine, Needs, Place
from palate.cluster.restarting import Ended, Stop
from palate.errors import PeerError, RunError
from palate.run import leash

SAID_AFTER = 20.0
"""Seconds without a place, after which it is said what is missing."""
PLACED_WITHIN = 600.0
"""Seconds, after which nobody waits for a place any more."""
ANSWERED_WITHIN = 120.0
"""Seconds that a machine may take to start an actor, or to answer one."""
_LOOK = 0.5


class OnRay:
    """As in `restarting.Machines`.

    Args:
        address: of the cluster's head, ``auto`` or ``local``, as `joined` has it.
        directory: that every process is started in; all machines see it.
    """

    def __init__(self, address: str, directory: Path) -> None:
        self._address, self._directory = address, directory

    @contextmanager
    def joined(self, needs: Needs, say: Callable[[str], None]) -> Iterator[Here]:
        """As in `restarting.Machines`."""
        with joined(self._address, needs, say) as cluster:
            yield Here(cluster=cluster, head=Head(cluster.head), needs=needs, directory=self._directory, say=say)


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """As in `restarting.Joined`.

    Attributes:
        cluster: that we are in.
        head: of it, watched; once it is gone, nobody takes leave of anybody.
        needs: of the run.
        directory: to start everything in.
        say: told what is missing.
    """

    cluster: Cluster
    head: Head
    needs: Needs
    directory: Path
    say: Callable[[str], None]

    def trainers(self, command: Sequence[str], attempt: int, stop: Stop, told: Mapping[str, str]) -> Gang:
        """As in `restarting.Joined`."""
        return Gang(self, stop, command, attempt, told)

    def engines(self, command: Sequence[str], stop: Stop, told: Mapping[str, str]) -> EngineGang:
        """As in `restarting.Joined`."""
        return EngineGang(self, stop, command, told)


class Kept:
    """Processes of one kind, each with a keeper at its place; those below say how they are started.

    Args:
        here: where.
        size: how many.
        placed: processes of the run that have their places already.
        stop: ends the wait for places.

    Raises:
        RunError: there is no place for them, or a machine lacks something.
        KeyboardInterrupt: a stop was asked for meanwhile.
    """

    kind = "trainer"
    patience = 0.0
    """Seconds that each has to end what it has started."""

    def __init__(self, here: Here, size: int, placed: int, stop: Stop) -> None:
        self.size, self.here, self._head = size, here, here.head
        self._group = placement_group([here.needs.bundle] * size, strategy="PACK")
        self.keepers: list[Any] = []
        self.places: list[Place] = []
        self._looks: dict[Any, int] = {}
        try:
            self._wait_for_places(placed, stop)
            self._put_keepers()
            self._start()
            self._looks = {each.look.remote(_LOOK): rank for rank, each in enumerate(self.keepers)}
        except BaseException:
            self.end()
            raise

    def _start(self) -> None:
        raise NotImplementedError

    def _wait_for_places(self, placed: int, stop: Stop) -> None:
        begun, told = time.monotonic(), False
        while not self._group.wait(1):
            self._head.check()
            waited = time.monotonic() - begun
            if stop.asked:
                raise KeyboardInterrupt("stopped before it was placed")
            if waited > SAID_AFTER and not told:
                self.here.say(f"{self._what_is_missing(placed)}; waiting for it")
                told = True
            if waited > PLACED_WITHIN:
                raise RunError(f"{self._what_is_missing(placed)}; waited {PLACED_WITHIN:g} s")

    def _what_is_missing(self, placed: int) -> str:
        return places.what_is_missing(self.here.needs, *_machines(), placed=placed)

    def _put_keepers(self) -> None:
        ray.cloudpickle.register_pickle_by_value(keeper)
        kind: Any = ray.remote(keeper.Keeper)
        self.keepers = [
            kind.options(
                num_cpus=self.here.needs.cpus,
                num_gpus=self.here.needs.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number),
            ).remote()
            for number in range(self.size)
        ]
        told = self.answers([each.here.remote() for each in self.keepers])
        found = [Place(machine=name, address=address, gpus=gpus) for name, address, gpus in told]
        order = places.ranks(found)
        self.keepers, self.places = [self.keepers[number] for number in order], [found[number] for number in order]

    def start(
        self,
        commands: Sequence[Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        *,
        terminal: bool = False,
        left_by: int = SIGKILL,
    ) -> None:
        """One at each place.

        Args:
            terminal: the first has one.
            left_by: signal that tells each of its keeper's death.
        """
        source = Path(leash.__file__).read_text(encoding="utf-8")
        given = zip(self.keepers, commands, environments, strict=True)
        starts = [
            each.start.remote(
                source,
                [*command],
                str(self.here.directory),
                environment,
                terminal=terminal and not rank,
                left_by=int(left_by),
            )
            for rank, (each, command, environment) in enumerate(given)
        ]
        if refusals := [why for why in self.answers(starts) if why]:
            raise RunError(refusals[0])

    def answers(self, asked: Sequence[Any]) -> list[Any]:
        """Of keepers, who have nothing else to do.

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
            raise PeerError(f"a machine of the cluster cannot start its {self.kind}, or is gone: {why}") from None

    def heard(self, rank: int, stream: int, text: bytes) -> None:
        """What one of them has said."""
        os.write(stream, text)

    def ended(self, seconds: float) -> Sequence[Ended]:
        """As in `restarting.Placed`; what they say is passed on."""
        self._head.check()
        found = []
        looks = [*self._looks]
        if looks and ray.wait(looks, num_returns=1, timeout=seconds)[0]:
            looks = ray.wait(looks, num_returns=len(looks), timeout=0)[0]
        else:
            looks = []
        for ready in looks:
            rank = self._looks.pop(ready)
            end = partial(Ended, rank=rank, where=self.places[rank].address, kind=self.kind)
            try:
                said, status = ray.get(ready)
            except ActorUnavailableError:  # the network, perhaps: Ray says later whether it is gone
                said, status = [], None
                time.sleep(_LOOK)
            except RayError as error:
                why = "its machine has too little memory" if isinstance(error, OutOfMemoryError) else ""
                found.append(end(status=None, why=why))
                continue
            for stream, text in said:
                self.heard(rank, stream, text)
            if status is None:
                self._looks[self.keepers[rank].look.remote(_LOOK)] = rank
            else:
                found.append(end(status=status))
        return found

    def signal(self, number: int) -> None:
        """As in `restarting.Placed`."""
        for rank in self._looks.values():
            self.keepers[rank].signal.remote(number)

    def end(self) -> None:
        """As in `restarting.Placed`; a machine that does not answer is given up."""
        if self._head.gone:
            return
        with suppress(RayError):
            ended = [each.end.remote(self.patience) for each in self.keepers]
            ray.wait(ended, num_returns=len(ended), timeout=15 + self.patience)
        for each in self.keepers:
            with suppress(RayError):
                ray.kill(each)
        with suppress(RayError):
            remove_placement_group(self._group)


class Gang(Kept):
    """Trainers, as in `restarting.Placed`; arguments as of `restarting.Joined.trainers`."""

    def __init__(self, here: Here, stop: Stop, command: Sequence[str], attempt: int, told: Mapping[str, str]) -> None:
        self._command, self._attempt, self._told = command, attempt, told
        super().__init__(here, here.needs.trainers, here.needs.engines, stop)

    def _start(self) -> None:
        ours = self.here.cluster.ours
        meeting = "127.0.0.1" if ours else self.places[0].address
        port = self.answers([self.keepers[0].listen.remote(meeting)])[0]
        environments = places.environments(self.places, self.here.needs, port=port, attempt=self._attempt)
        environments = [{**each, **self._told} for each in environments]
        if ours:  # nothing of ours is to be reached from elsewhere
            alone = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
            environments = [{**alone, **each, "MASTER_ADDR": meeting} for each in environments]
        terminal = sys.stderr.isatty()
        if terminal:
            columns, lines = os.get_terminal_size(sys.stderr.fileno())
            environments[0] |= {"COLUMNS": str(columns), "LINES": str(lines)}
        self.start([self._command] * self.size, environments, terminal=terminal)
        if self.size > 1:
            self.keepers[0].open_store.remote(meeting)


class EngineGang(Kept):
    """Engines, as in `serving.Engines`; arguments as of `restarting.Joined.engines`.

    On a cluster of this machine alone they listen on loopback, elsewhere at their machine's address.
    """

    kind = "engine"
    patience = 25.0

    def __init__(self, here: Here, stop: Stop, command: Sequence[str], told: Mapping[str, str]) -> None:
        self._command, self._told = command, told
        self._lines: dict[int, bytes] = {}
        super().__init__(here, here.needs.engines, 0, stop)

    def _start(self) -> None:
        hosts = ["127.0.0.1" if self.here.cluster.ours else place.address for place in self.places]
        asked = zip(self.keepers, hosts, strict=True)
        ports = self.answers([each.listen.remote(host) for each, host in asked])  # held, so that no two are the same
        self.answers([each.let_go.remote() for each in self.keepers])
        self.addresses = [f"http://{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
        self.start(
            [[*self._command, "--host", host, "--port", str(port)] for host, port in zip(hosts, ports, strict=True)],
            [places.engine_environment(place, self.here.needs, self._told) for place in self.places],
            left_by=SIGTERM,  # it has vLLM to end
        )

    def answer(self) -> bool:
        """As in `serving.Engines`."""
        asked = zip(self.keepers, self.addresses, strict=True)
        return all(self.answers([each.answers.remote(address) for each, address in asked]))

    def heard(self, rank: int, stream: int, text: bytes) -> None:
        """Whole lines, with its name; the lines for a recipe, which are its output, are of no use here."""
        if stream != 2:
            return
        *lines, self._lines[rank] = (self._lines.get(rank, b"") + text).split(b"\n")
        for line in lines:
            self.here.say(f"engine {rank} on {self.places[rank].address}: {line.decode(errors='replace')}")


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
