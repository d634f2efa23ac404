"""Adapters as PEFT writes and reads them, and which model they belong to.

    adapter_config.json          rank, alpha and places
    adapter_model.safetensors    A and B of every place, and scalar heads, under PEFT's names
    base.json                    the model they were learned beside: where it is, and the hash of its weights

What PEFT itself, or TRL, has written has no `base.json`: its base is then the one that its config names, unchecked.

Left out: everything in PEFT's format that is not LoRA of linear maps.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from palate import disk
from palate.errors import ModelError
from palate.lm.adapters import LoRA, adapted, hang, is_transposed, places
from palate.lm.families import Shape
from palate.lm.model import Model, ScalarModel

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
_PREFIX = "base_model.model."
_HEAD = f"{_PREFIX}score.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The model that an adapter was learned beside.

    Attributes:
        places: where it is, the first that exists; relative ones are relative to the adapter's directory.
        weights: hash of its weights; empty if nobody knows.
    """

    places: tuple[str, ...]
    weights: str


def is_adapter(directory: Path) -> bool:
    """Whether an adapter lies there, and no whole model."""
    return (directory / CONFIG).exists() and not (directory / "config.json").exists()


def base_at(home: Path | None, name: str, weights: str, directory: Path) -> Base:
    """How an adapter in ``directory`` is to name its base: a path, in two ways, or the name of what is no path.

    Args:
        home: of the base, if it is a directory of the user's.
        name: as the user gave it.
        weights: hash of them.
        directory: of the adapter, in the end.
    """
    if home is None:
        return Base(places=(name,), weights=weights)
    home = home.resolve()
    return Base(places=(os.path.relpath(home, directory.resolve()), str(home)), weights=weights)


def read_base(directory: Path) -> Base:
    """Of the adapter in a directory.

    Raises:
        ModelError: nothing says which it is.
    """
    try:
        if not (directory / BASE).exists():
            return Base(places=(_config(directory)["base_model_name_or_path"],), weights="")
        told = json.loads((directory / BASE).read_text(encoding="utf-8"))
        return Base(places=tuple(told["places"]), weights=told["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{directory}: nothing says which model this adapter belongs to ({error})") from None


def write(directory: Path, model: Model, base: Base, named: str) -> None:
    """The adapters of a model.

    Args:
        directory: exists already.
        base: of the adapters.
        named: the same for PEFT: a name on the hub, or a directory.
    """
    found = _as_in_files(model)
    first = next(iter(found.values()))
    scalar = isinstance(model, ScalarModel)
    layers = sorted({next(int(part) for part in name.split(".") if part.isdigit()) for name in found})
    kinds = {name.rpartition(".")[-1]: adapter for name, adapter in found.items()}
    others = {kind: adapter for kind, adapter in kinds.items() if adapter.rank != first.rank}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
        "base_model_name_or_path": named,
        "inference_mode": True,
        "r": first.rank,
        "rank_pattern": {kind: adapter.rank for kind, adapter in others.items()},
        "lora_alpha": first.alpha,
        "alpha_pattern": {kind: adapter.alpha for kind, adapter in others.items()},
        "use_rslora": first.rank_stabilized,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(kinds),
        "layers_to_transform": None if layers == list(range(model.model.shape.num_layers)) else layers,
        "fan_in_fan_out": any(is_transposed(model.get_submodule(name)) for name in adapted(model)),
        "modules_to_save": ["score"] if scalar else None,
    }
    tensors = {
        f"{_PREFIX}{name}.{which}.weight": getattr(adapter, which)
        for name, adapter in found.items()
        for which in ("lora_A", "lora_B")
    }
    if isinstance(model, ScalarModel):
        tensors[_HEAD] = model.score.weight
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, directory / WEIGHTS, metadata={"format": "pt"})
    for name, content in ((CONFIG, config), (BASE, asdict(base))):
        (directory / name).write_text(disk.json_text(content, indent=2) + "\n", encoding="utf-8")


def _as_in_files(model: Model) -> dict[str, LoRA]:
    """The adapters by transformers' names of their places; what is one matrix there has one adapter."""
    found = {name.removeprefix(model.model.prefix): adapter for name, adapter in adapted(model).items()}
    for whole, parts in _fused(model):
        for path in dict.fromkeys(name.rpartition(".")[0] for name in found if name.rpartition(".")[-1] in parts):
            joined = _joined([found.pop(f"{path}.{part}", None) for part in parts], list(parts.values()))
            found[f"{path}.{whole}"] = joined
    return found


def _fused(model: Model) -> list[tuple[str, dict[str, int]]]:
    """Projections of the network that are one matrix in files: its name there, and their names and rows, in order."""
    shape = model.model.shape
    if not isinstance(shape, Shape):
        return []
    return [(whole, {part: shape.size_of(part)[1] for part in parts}) for whole, parts in shape.fused]


@torch.no_grad()
def _joined(parts: list[LoRA | None], sizes: list[int]) -> LoRA:
    """Adapters of one input as one: A below A, and B in blocks."""
    there = [part for part in parts if part is not None]
    first, rank = there[0], sum(part.rank for part in there)
    by = rank / first.rank
    whole = LoRA(
        first.lora_A.shape[1],
        sum(sizes),
        rank=rank,
        alpha=first.alpha * (by**0.5 if first.rank_stabilized else by),
        rank_stabilized=first.rank_stabilized,
        dtype=first.dtype,
    )
    whole.lora_A.copy_(torch.cat([part.lora_A for part in there]))
    blocks = [torch.zeros(size, 0) if part is None else part.lora_B for part, size in zip(parts, sizes, strict=True)]
    whole.lora_B.copy_(torch.block_diag(*(block.to(first.lora_B.device) for block in blocks)))
    return whole


def count_heads(directory: Path) -> int:
    """Of a reward or value model whose adapters these are; 0 of a language model's.

    Raises:
        ModelError: they cannot be read.
    """
    try:
        with safe_open(directory / WEIGHTS, "pt") as file:
            return int(file.get_slice(_HEAD).get_shape()[0]) if _HEAD in file.keys() else 0  # noqa: SIM118
    except Exception as error:
        raise _unreadable(directory, error) from None


@torch.no_grad()
def read(directory: Path, model: Model) -> None:
    """Hang the adapters in a directory on a model that has none.

    Raises:
        ModelError: they cannot be read, or they do not fit it.
    """
    try:
        config, tensors = _config(directory), load_file(directory / WEIGHTS)
        rank_stabilized = bool(config.get("use_rslora"))
    except Exception as error:
        raise _unreadable(directory, error) from None
    _check(directory, config)
    if isinstance(model, ScalarModel) and _HEAD in tensors:
        model.score.weight.copy_(tensors.pop(_HEAD))
    used = set()
    for name, place in places(model).items():
        key, rows = _in_files(model, name)
        names = [f"{_PREFIX}{key}.{which}.weight" for which in ("lora_A", "lora_B")]
        if not all(name in tensors for name in names):
            continue
        used.update(names)
        a, b = (tensors[name] for name in names)
        alpha, rank = _alpha(config, key), len(a)
        if rows is not None:  # of a matrix that is several here: of the other ones' blocks it has nothing
            b = b[rows]
            own = b.any(0)
            a, b = a[own], b[:, own]
            alpha *= (len(a) / rank) ** (0.5 if rank_stabilized else 1.0)
        if len(a):
            adapter = hang(place, rank=len(a), alpha=alpha, rank_stabilized=rank_stabilized)
            if (adapter.lora_A.shape, adapter.lora_B.shape) != (a.shape, b.shape):
                raise ModelError(f"{directory}: the adapter was made for another model: {name} has another size")
            adapter.lora_A.copy_(a)
            adapter.lora_B.copy_(b)
    if unknown := sorted(tensors.keys() - used):
        raise ModelError(f"{directory}: the adapter does not fit its base: unknown {', '.join(unknown[:3])}")


def _unreadable(directory: Path, error: Exception) -> ModelError:
    return ModelError(f"{directory}: the adapter cannot be read ({' '.join(str(error).split())})")


def _in_files(model: Model, name: str) -> tuple[str, slice | None]:
    """What a place is called in files, and which rows it has of a matrix that is several here."""
    path, _, last = name.removeprefix(model.model.prefix).rpartition(".")
    for whole, parts in _fused(model):
        if last in parts:
            start = sum(list(parts.values())[: list(parts).index(last)])
            return f"{path}.{whole}", slice(start, start + parts[last])
    return f"{path}.{last}", None


def _alpha(config: Mapping[str, Any], name: str) -> float:
    """Of a place; by PEFT's rule for names."""
    of_kinds = (config.get("alpha_pattern") or {}).items()
    own = (alpha for kind, alpha in of_kinds if re.match(rf"(.*\.)?({kind})$", name))
    return float(next(own, config["lora_alpha"]))


def _config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    return config


def _check(directory: Path, config: Mapping[str, Any]) -> None:
    """Raises:
    ModelError: it is an adapter of a kind that is not computed here.
    """
    plain: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",),
        "bias": ("none", None),
        "use_dora": (False, None),
        "lora_bias": (False, None),
    }
    for key, values in plain.items():
        if config.get(key) not in values:
            said = f"{key} = {config.get(key)!r}"
            raise ModelError(f"{directory}: an adapter with {said} is not read here: merge it into its base in PEFT")


def changed(directory: Path, base: str) -> ModelError:
    """What to say when a base's weights are not those that the adapter was learned beside."""
    return ModelError(
        f"{directory}: its base {base} has other weights than those it was learned beside: put them back, or train it "
        "again"
    )
