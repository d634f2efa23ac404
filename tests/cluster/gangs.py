"""Several processes on this machine that are one world, forked from the test's own: that takes no time to import."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from palate.cluster.gang import Gang
from palate.run.world import entered

PATIENCE = timedelta(seconds=60)
"""Far more than anything here takes on a loaded machine."""


def in_gang(size: int, directory: Path, work: Callable[[Gang], Any], threads: int = 2) -> list[Any]:
    """What ``work`` gives in each of the processes; an exception that it raises is what it gives.

    Args:
        directory: where they meet; a new one for every gang.
        threads: of gloo in each process, by itself two; one does what it was given in that order.
    """
    directory.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_member, args=(rank, size, directory, work, threads, pipes[rank][1]))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    found = [_received(receiver) for receiver, _ in pipes]
    for process in processes:
        process.join()
    return found


def process(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """A reward that is another one in every process."""
    return [float(os.getpid() % 1000) for _ in responses]


def _received(receiver: Connection) -> Any:
    try:
        return pickle.loads(receiver.recv_bytes())
    except EOFError:
        return None  # killed


def _member(
    rank: int, size: int, directory: Path, work: Callable[[Gang], Any], threads: int, sender: Connection
) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(directory / "store"), size)
    options = dist.ProcessGroupGloo._Options()
    options._threads, options._timeout = threads, PATIENCE
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("palate", store), rank=rank, world_size=size, pg_options=options
    )
    gang = Gang(dist.PrefixStore("gang", store), here=size, patience=PATIENCE)
    try:
        with entered(gang):
            found: Any = work(gang)
    except BaseException as error:
        gang.end(getattr(error, "status", 1))
        try:
            pickle.dumps(error)
            found = error
        except Exception:
            found = RuntimeError("".join(traceback.format_exception(error)))
    sender.send_bytes(pickle.dumps(found))
    sender.close()
