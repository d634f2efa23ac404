"""Checkpoints: everything a run needs to go on, bit for bit, after it was killed at any instant.

    checkpoints/step-000020/          the state after 20 finished steps
        policy.safetensors            the tensors of one stateful object
        optimizer.safetensors
        state.json                    its numbers and strings, the next step, size and hash of each tensor file

One is written under a temporary name, flushed and renamed, so it is whole or absent; hashes find what decayed later.
What is sharded over several processes stands in a directory of its name, see `shards`. Left out: asynchronous writing,
and pickle, which runs code when read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast
from zlib import crc32

from safetensors import SafetensorError

from palate import disk
from palate.errors import CheckpointError
from palate.run import shards
from palate.run.world import world

if TYPE_CHECKING:
    from torch import Size, Tensor, dtype

    Value = Tensor | int | float | str

_PREFIX = "step-"


class Stateful(Protocol):
    """Something a checkpoint holds: a model, an optimizer with its schedule, a controller, a normaliser."""

    def state_dict(self) -> Mapping[str, Value]:
        """Tensors, numbers and strings by name; flat. They are read before training goes on."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take over what ``state_dict`` gave."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What was read back: ``step`` is the next one to do, ``seconds`` what the steps before it took."""

    step: int
    seconds: float
    states: dict[str, dict[str, Any]]


class Sharded(Stateful, Protocol):
    """Some of whose tensors may be shards."""

    def room(self, name: str, size: Size, dtype: dtype, /) -> Tensor:
        """Memory for what a checkpoint holds under this name, of the part that this process is to have."""
        ...


def save(root: Path, step: int, state: Mapping[str, Stateful], *, seconds: float, keep: int) -> Path:
    """Write the state after ``step`` finished steps and delete all but the ``keep`` newest up to it.

    The other processes `assist` at the same time.
    """
    final, temporary = root / f"{_PREFIX}{step:06d}", _unfinished(root, step)
    with disk.disk_errors(final):
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            _write(temporary, step, state, seconds)
            disk.flush_tree(temporary)
            if final.exists():  # only an unreadable one: a run never repeats a step whose checkpoint it could read
                shutil.rmtree(final)
            temporary.replace(final)
            disk.flush(root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _prune(root, step, keep)
    return final


def assist(root: Path, step: int, state: Mapping[str, Stateful]) -> None:
    """Write what this process alone has of the state, while the first one writes the rest."""
    with disk.disk_errors(root):
        for name, stateful in state.items():
            _write_shards(_unfinished(root, step) / name, stateful.state_dict())


def _unfinished(root: Path, step: int) -> Path:
    return root / f".{_PREFIX}{step:06d}.tmp"


def _write_shards(directory: Path, values: Mapping[str, Value]) -> dict[str, Any]:
    """Of one stateful object, by all processes at once; nothing, if nothing of it is sharded."""
    found: Any = {name: value for name, value in values.items() if shards.is_shard(value)}
    return shards.write(directory, found, _digest) if found else {}


def check_alike(state: Mapping[str, Stateful]) -> None:
    """Of a run in several processes: all of them must have the same to the bit, as each makes the same updates.

    Raises:
        CheckpointError: one has drifted, as other processors or other versions of a library round otherwise.
    """
    if world().size == 1:
        return
    everywhere = world().whole([_checksum(state)], "whether all have the same weights")
    if strangers := [str(rank) for rank, each in enumerate(everywhere) if each != everywhere[0]]:
        raise CheckpointError(
            f"the weights of process {', '.join(strangers)} are not those of process 0: give all processes machines of "
            "one kind with the same versions of everything, and go on with --resume from the checkpoint before"
        )


def _checksum(state: Mapping[str, Stateful]) -> int:
    """Of all numbers, whatever their order: cheap beside writing them."""
    total = 0
    for stateful in state.values():
        for value in stateful.state_dict().values():
            if shards.is_shard(value):  # of which each process has others
                continue
            total += crc32(repr(value).encode()) if isinstance(value, int | float | str) else _sum_of_bits(value)
    return total


def _sum_of_bits(tensor: Tensor) -> int:
    import torch

    plain = tensor.detach().contiguous().flatten()
    return int(plain.view(torch.int32 if plain.element_size() % 4 == 0 else torch.uint8).sum(dtype=torch.int64))


def load_newest(root: Path, state: Mapping[str, Stateful], say: Callable[[str], None]) -> Checkpoint | None:
    """The newest readable checkpoint, or None if none was ever finished.

    Args:
        root: the directory of checkpoints.
        state: what each must hold.
        say: told of every checkpoint that is skipped.

    Raises:
        CheckpointError: there are checkpoints, and none of them can be read.
    """
    _remove_unfinished(root)
    found = sorted(_finished(root), reverse=True)
    for _, path in found:
        try:
            return _read(path, state)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            say(f"{path} is damaged and skipped: {error}")
    if found:
        raise CheckpointError(f"{root}: none of {len(found)} checkpoints can be read; start again with another --out")
    return None


def read(root: Path, step: int, state: Mapping[str, Stateful]) -> Checkpoint:
    """The one after ``step`` finished steps, which another process has just read.

    Raises:
        CheckpointError: it cannot be read here.
    """
    path = root / f"{_PREFIX}{step:06d}"
    try:
        return _read(path, state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read by every process of the run: {error}") from None


def _write(directory: Path, step: int, state: Mapping[str, Stateful], seconds: float) -> None:
    body: dict[str, Any] = {"step": step, "seconds": seconds, "states": {}, "files": {}, "shards": {}}
    for name, stateful in state.items():
        values = stateful.state_dict()
        body["states"][name] = {key: value for key, value in values.items() if isinstance(value, int | float | str)}
        body["shards"][name] = _write_shards(directory / name, values)
        tensors: Any = {
            key: value
            for key, value in values.items()
            if key not in body["states"][name] and not shards.is_shard(value)
        }
        if tensors:
            body["files"][name] = _write_tensors(directory / f"{name}.safetensors", tensors)
    text = json.dumps(body)
    record = {"body": text, "blake2b": _digest_text(text)}
    (directory / "state.json").write_text(json.dumps(record), encoding="utf-8")


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    from safetensors.torch import save_file

    save_file(_separate(tensors), path)
    return {"size": path.stat().st_size, "blake2b": _digest(path)}


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without shared memory: tied weights are written once for each of their names."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous()
        storage = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return result


def _read(path: Path, state: Mapping[str, Stateful]) -> Checkpoint:
    record = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if _digest_text(record["body"]) != record["blake2b"]:
        raise ValueError("state.json has changed since it was written")
    body = json.loads(record["body"])
    if set(body["states"]) != set(state):
        raise ValueError(f"it holds {', '.join(sorted(body['states']))}, but {', '.join(sorted(state))} is needed")
    states = body["states"]
    for name, expected in body["files"].items():
        states[name] |= _read_tensors(path / f"{name}.safetensors", expected)
    for name, files in body.get("shards", {}).items():
        for file, expected in files.items():
            _check(path / name / file, expected)
        if files:
            states[name] |= shards.read(path / name, cast("Sharded", state[name]).room)
    return Checkpoint(step=body["step"], seconds=body["seconds"], states=states)


def _read_tensors(path: Path, expected: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    _check(path, expected)
    return load_file(path)


def _check(path: Path, expected: Mapping[str, Any]) -> None:
    if path.stat().st_size != expected["size"] or _digest(path) != expected["blake2b"]:
        raise ValueError(f"{path.name} is not what was written")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _digest_text(text: str) -> str:
    return hashlib.blake2b(text.encode()).hexdigest()


def _finished(root: Path) -> list[tuple[int, Path]]:
    numbers = [(path.name.removeprefix(_PREFIX), path) for path in root.glob(f"{_PREFIX}*")]
    return [(int(number), path) for number, path in numbers if number.isdigit()]


def _prune(root: Path, step: int, keep: int) -> None:
    """Keep the newest up to ``step``; a later one is damaged, or the run would have gone on from there."""
    kept = sorted(number for number, _ in _finished(root) if number <= step)[-keep:]
    for number, path in _finished(root):
        if number not in kept:
            shutil.rmtree(path)


def _remove_unfinished(root: Path) -> None:
    for path in root.glob(f".{_PREFIX}*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
