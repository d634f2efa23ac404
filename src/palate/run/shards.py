"""The part of a checkpoint that no process has whole: weights and moments sharded over several.

    checkpoints/step-000020/policy/shard-00002-model-00001-of-00001.safetensors     what process 1 has of the policy's

PyTorch's distributed checkpoints (DCP) write and read it: every process its own shards, into whatever arrangement there
is when they are read: as many processes, another number, or one. They are kept as safetensors, in whose headers stands
which part of what each is. DCP's own format holds a pickle, which runs code when it is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.run.world import world

if TYPE_CHECKING:
    from torch import Size, Tensor, dtype

    Room = Callable[[str, Size, dtype], Tensor]


def is_shard(value: object) -> bool:
    """Whether a tensor is one that several processes hold parts of."""
    return hasattr(value, "device_mesh")


def write(directory: Path, tensors: Mapping[str, Tensor], digest: Callable[[Path], str]) -> dict[str, Any]:
    """What all processes have of these; each of them calls it, and all have written when it is done.

    Returns:
        Size and hash of each file by its name.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with _plain_errors():
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True))
    files = world().mine(sorted(directory.glob("*.safetensors")))
    # looked at before all have met: afterwards the first process gives the directory its name
    looked_at = [(path.name, {"size": path.stat().st_size, "blake2b": digest(path)}) for path in files]
    return dict(world().whole(looked_at, "hashes of the checkpoint's files"))


def read(directory: Path, room: Room) -> dict[str, Tensor]:
    """What this process is to have, without asking another one.

    Args:
        room: memory for a tensor of this name, size and kind, sharded as it is to be; whole, if it is to be whole.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    stored: Mapping[str, Any] = HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    tensors = {name: room(name, about.size, about.properties.dtype) for name, about in stored.items()}
    with _plain_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # nobody else is to be asked
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(directory)), no_dist=True)
    return tensors


@contextmanager
def _plain_errors() -> Iterator[None]:
    """The error of the process that had one, a full disk perhaps."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None
