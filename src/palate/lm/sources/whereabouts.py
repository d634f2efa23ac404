"""Where a model lies: in the cache, in a directory of the user's, or on the hub; and which files are its weights.

The directory of an adapter stands for the model that it belongs to with the adapter on it, wherever a model is named.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from palate import disk
from palate.errors import ModelError
from palate.lm.sources import peft_format
from palate.lm.sources.builtin import BUILTIN

_ABOUT = ("*.json", "*.txt", "*.model", "*.jinja")
"""What is fetched of a model besides its weights."""


def locate(name: str, *, weights: bool = True) -> Path:
    """The directory that holds a model, converting or fetching it first if need be.

    Args:
        name: a path, a Hugging Face name, or one of the builtin models.
        weights: they are needed; otherwise those on the hub stay there.

    Raises:
        ModelError: there is none.
    """
    if name in BUILTIN:
        return cached(*BUILTIN[name])
    path = Path(name)
    for directory in (path, path / "model"):  # itself, or a run directory
        if _holds_model(directory):
            return directory
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "runs/")):
        raise ModelError(
            f"{name}: no model there; name a directory with config.json and safetensors, a Hugging Face model "
            f"(owner/name), or one of: {', '.join(BUILTIN)}"
        )
    return _from_hub(name, [*_ABOUT, "*.safetensors"] if weights else list(_ABOUT))


def lowest_first(name: str, *, weights: bool = True) -> list[Path]:
    """The directory of the whole model behind a name, and those of the adapters on it.

    Raises:
        ModelError: one of them is not there.
    """
    found = [locate(name, weights=weights)]
    while peft_format.is_adapter(directory := found[0]):
        base = peft_format.read_base(directory)
        below = [directory / place for place in base.places if _holds_model(directory / place)]
        below = below or [locate(place, weights=weights) for place in base.places[-1:] if not Path(place).is_absolute()]
        if not below or below[0].resolve() in [each.resolve() for each in found]:
            raise ModelError(
                f"{name}: its base is not at {' or '.join(base.places)}: put it back, or say in "
                f"{directory / peft_format.BASE} where it is"
            )
        found.insert(0, below[0])
    return found


def _holds_model(directory: Path) -> bool:
    return (directory / "config.json").exists() or peft_format.is_adapter(directory)


def _from_hub(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(f"{name}: no such directory, and the Hugging Face hub: {in_one_line(error)}") from None


def cache_directory() -> Path:
    """``$PALATE_CACHE``, or ``palate`` in the user's cache.

    Raises:
        ModelError: none is named, and the user has no home.
    """
    if named := os.environ.get("PALATE_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palate"
    except RuntimeError:
        raise ModelError("there is no home directory to keep the model in: name one with PALATE_CACHE") from None


def builtin_directory(name: str) -> Path:
    """Where a builtin model lies in the cache, or will lie."""
    return cache_directory() / BUILTIN[name][0]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The directory of this name in the cache, made first if it is not there."""
    directory = cache_directory() / name
    if not (directory / "config.json").exists():
        disk.write_directory(directory, make, replace=False)
    return directory


def has_weights(directory: Path) -> bool:
    """Whether there are any; a model whose config alone is there can be estimated."""
    return any(directory.glob("*.safetensors*"))


def weight_files(directory: Path) -> list[Path]:
    """The safetensors that make up a model: those of its index, the one plain file, or all there are.

    Raises:
        ModelError: there is none, or one of the index is missing.
    """
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if single.exists():
        return [single]
    files = sorted(directory.glob("*.safetensors"))
    if index.exists():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index} cannot be read ({error}); the file may be torn") from None
        files = [directory / name for name in sorted(names)]
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        what = f"{', '.join(missing)} is missing" if missing else "no .safetensors file"
        raise ModelError(f"{directory}: {what}; weights in other formats are not read")
    return files


def digest(files: list[Path], below: str = "") -> str:
    """Hash of the weights in these files, and of those below them."""
    hashed = hashlib.blake2b(below.encode(), digest_size=16)
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                hashed.update(block)
    return hashed.hexdigest()


def in_one_line(error: Exception) -> str:
    """What a library said."""
    return " ".join(str(error).split())
