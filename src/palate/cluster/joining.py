"""Be in a Ray cluster, one that is there or one of this machine alone, and notice when its head is gone."""

from __future__ import annotations

import atexit
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.services import find_bootstrap_address  # has no other name
from ray.exceptions import RayError

from palate.cluster.places import Needs
from palate.errors import PeerError, RunError

HEAD_PATIENCE = 40.0
"""Seconds that the cluster's head may be out of reach; after 60 Ray ends this process without a word."""


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
            # as many places as are asked for: who starts more than there are cores has said so
            cores = (needs.trainers + needs.engines) * needs.cpus
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
