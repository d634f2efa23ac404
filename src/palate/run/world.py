"""One run in several processes: who computes what, and how they get at the whole of it.

Every process runs the same stage on the same data. What is computed with a network is divided into parts; each process
computes some, and all of them are told the rest. So whatever is decided from the whole (a normalisation, an advantage,
when to stop) is decided alike everywhere, and nothing above this seam knows how many processes there are.

    mine    the parts that this process computes         whole   the parts of all processes, in order
    add     sums over the processes, in place            once    what the first process computes, told to the others

One process is a `World` too, in which all of these do nothing. What joins several stands in `cluster/gang.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class World(Protocol):
    """All processes of a run, as one of them sees them. Each of them makes the same calls in the same order.

    Attributes:
        rank: the number of this process; 0 alone writes and speaks.
        size: how many there are.
        here: how many of them are on this machine.
    """

    rank: int
    size: int
    here: int

    def mine(self, parts: Iterable[T]) -> Iterator[T]:
        """Those of the parts that this process computes; every part is some process's, perhaps none is this one's."""
        ...

    def whole(self, own: Sequence[T], what: str) -> list[T]:
        """What all processes made of `mine`, one for each, in the order of the parts.

        Args:
            own: may be sent: numbers, texts, tensors, and records of them.
            what: that is, for whoever has to be told that a process did not come.
        """
        ...

    def add(self, tensors: Sequence[Tensor], what: str) -> None:
        """Sums over all processes, in place; the same bits in each of them."""
        ...

    def once(self, compute: Callable[[], T], what: str) -> T:
        """What the first process computes while the others wait."""
        ...


class OneProcess:
    """All there is, mostly."""

    rank, size, here = 0, 1, 1

    def mine(self, parts: Iterable[T]) -> Iterator[T]:
        """All of them."""
        return iter(parts)

    def whole(self, own: Sequence[T], what: str) -> list[T]:
        """What there is."""
        return list(own)

    def add(self, tensors: Sequence[Tensor], what: str) -> None:
        """They are the sums."""

    def once(self, compute: Callable[[], T], what: str) -> T:
        """Computed here."""
        return compute()


_world: World = OneProcess()


def world() -> World:
    """The one that this process is in."""
    return _world


@contextmanager
def entered(joined: World) -> Iterator[World]:
    """Be in this one."""
    global _world
    before, _world = _world, joined
    try:
        yield joined
    finally:
        _world = before
