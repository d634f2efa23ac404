"""The processes that `torchrun` started, as one `World`.

Each process says in torchrun's store what it waits for before it waits. So when one does not come, the others can say
which, and what it was at. The first process that ends with an error says so there as well: the others then end with its
exit status and without a word, and whoever looks reads one line.

gloo carries what is on a processor, NCCL what is on a GPU. Left out: going on with fewer processes (`torchrun
--max-restarts` starts all of them again, and the run goes on from its newest checkpoint).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from palate.arguments import speaks
from palate.errors import PalateError, PeerError, RunError, SilentError
from palate.run.world import World, entered

T = TypeVar("T")

BUCKET = 2**24
"""Numbers that are added at once."""
PATIENCE = timedelta(minutes=30)
"""For a process that does not come: the slowest may be writing a model."""
FAREWELL = 2.0
"""Seconds that a process with an error waits for the others to have heard of it."""
_NOBODY = object()


class Gang:
    """As in `World`; part i of several is computed by process i modulo their number.

    Args:
        store: torchrun's, which all processes can write to.
        patience: for a process that does not come, as the group has it.
        group: the processes; all there are, if left out.

    Attributes:
        here: how many of the processes are on this machine.
    """

    def __init__(self, store: Any, *, here: int, patience: timedelta, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self.here = dist.get_rank(group), dist.get_world_size(group), here
        self.store, self.patience, self.group = store, patience, group
        self.count = 0
        self._go_to("the beginning")

    def _go_to(self, what: str) -> None:
        self.store.set(f"at {self.rank}", f"{self.count} {what}")
        self.count += 1

    def mine(self, parts: Iterable[T]) -> Iterator[T]:
        """Every so manieth."""
        return (part for place, part in enumerate(parts) if place % self.size == self.rank)

    def whole(self, own: Sequence[T], what: str) -> list[T]:
        """As in `World`."""
        gathered: list[tuple[str, Sequence[T]] | None] = [None] * self.size
        with self._waiting(what):
            dist.all_gather_object(gathered, (what, own), group=self.group)
        told = [each for each in gathered if each is not None]
        assert {name for name, _ in told} == {what}, f"processes are at different places: {[name for name, _ in told]}"
        in_turn = chain.from_iterable(zip_longest(*(each for _, each in told), fillvalue=_NOBODY))
        return [cast(T, each) for each in in_turn if each is not _NOBODY]

    def add(self, tensors: Sequence[Tensor], what: str) -> None:
        """As in `World`; so many at once that neither their number nor their size costs much."""
        for group in _buckets(tensors):
            flat = torch.cat([tensor.detach().flatten() for tensor in group])
            with self._waiting(what):
                dist.all_reduce(flat, op=dist.ReduceOp.SUM, group=self.group)
            for tensor, total in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.detach().copy_(total.view_as(tensor))

    def once(self, compute: Callable[[], T], what: str) -> T:
        """As in `World`."""
        box = [compute() if self.rank == 0 else None]
        with self._waiting(what):
            dist.broadcast_object_list(box, src=0, group=self.group)
        return cast(T, box[0])

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        """Raises:
        SilentError: another process has ended with an error.
        PeerError: one is gone, or did not come in time.
        """
        begun = time.monotonic()
        try:
            self._go_to(what)
            yield
        except (RuntimeError, ValueError) as error:
            raise self._lost(what, time.monotonic() - begun) from error

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Where weights are sharded, each pass is made of messages that this world does not see before they fail.

        Raises:
            SilentError, PeerError: as any other call.
        """
        try:
            yield
        except RuntimeError as error:
            said = str(error).lower()
            if "gloo" not in said and not isinstance(error, dist.DistError):
                raise
            seconds = self.patience.total_seconds() if "timed out" in said else 0.0
            raise self._lost("weights, gradients or parts of a checkpoint", seconds) from error

    def _lost(self, what: str, seconds: float) -> PalateError:
        with suppress(Exception):  # the store may be gone too
            self.store.wait(["ended"], timedelta(seconds=1))
        try:
            if self.store.check(["ended"]):
                return SilentError(int(self.store.get("ended").decode().split()[1]))
            names = [f"at {rank}" for rank in range(self.size)]
            places = [self.store.get(name).decode() if self.store.check([name]) else "-1 nothing yet" for name in names]
        except Exception:  # its host is gone
            return PeerError("the process that the others met at is gone; start all of them again, with --resume")
        behind = [
            f"process {rank} was last at {place.partition(' ')[2]!r}"
            for rank, place in enumerate(places)
            if int(place.split()[0]) < self.count - 1
        ]
        who = ", ".join(behind) or "no process is behind"
        late = seconds >= 0.9 * self.patience.total_seconds()
        why = f"did not come within {self.patience.total_seconds():g} s" if late else "is gone"
        return PeerError(
            f"process {self.rank} of {self.size} waited for {what!r}, and one {why}: {who}; start all of them again, "
            "with --resume"
        )

    def end(self, status: int) -> bool:
        """Tell the others that this process ends with an error, and whether it is the first to tell."""
        with suppress(Exception):
            if self.store.compare_set("ended", "", f"{self.rank} {status}").decode() != f"{self.rank} {status}":
                self.store.add("heard", 1)
                return False
            dist.destroy_process_group()  # whoever waits for this process notices it
            until = time.monotonic() + FAREWELL
            while self.store.add("heard", 0) < self.size - 1 and time.monotonic() < until:
                time.sleep(0.02)
        return True

    @property
    def ended(self) -> int:
        """The exit status that the first process to end with an error told."""
        return int(self.store.get("ended").decode().split()[1])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one kind side by side, none of the groups much larger than `BUCKET`."""
    group: list[Tensor] = []
    for tensor in tensors:
        alike = not group or (tensor.dtype, tensor.device) == (group[0].dtype, group[0].device)
        if group and (not alike or sum(each.numel() for each in group) + tensor.numel() > BUCKET):
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group


def _patience() -> timedelta:
    said = os.environ.get("PALATE_PEER_TIMEOUT", "")
    if not said:
        return PATIENCE
    if not said.isdigit() or not int(said):
        raise RunError(f"PALATE_PEER_TIMEOUT = {said!r} is no number of seconds") if speaks() else SilentError(2)
    return timedelta(seconds=int(said))


@contextmanager
def joined() -> Iterator[World]:
    """Meet the other processes that torchrun has started, and be in their world.

    Raises:
        SilentError: instead of the error that ended what is done inside, if another process was the first with one.
    """
    patience = _patience()
    backend = "gloo"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        if here > (gpus := torch.cuda.device_count()):
            few = f"{here} processes on a machine of {gpus} GPUs: start at most one for each"
            raise RunError(few) if speaks() else SilentError(2)
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    shared, rank, size = next(iter(rendezvous("env://", timeout=patience)))
    # torchrun's store outlives the processes: addresses that an earlier attempt wrote there are those of the dead
    store = PrefixStore(f"palate {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
    dist.init_process_group(backend, store=PrefixStore("torch", store), rank=rank, world_size=size, timeout=patience)
    gang = Gang(PrefixStore("gang", store), here=here, patience=patience)
    try:
        with entered(gang), gang.passing():
            yield gang
    except BaseException as error:
        status = error.status if isinstance(error, PalateError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        if not gang.end(status):
            raise SilentError(gang.ended) from None
        raise
    dist.destroy_process_group()
