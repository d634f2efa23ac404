"""Adapters as PEFT writes and reads them, and which model they belong to.

    adapter_config.json          rank, alpha and places
    adapter_model.safetensors    A and B of every place, and a scalar head, under PEFT's names
    base.json                    the model they were learned beside: where it is, and the hash of its weights

What PEFT itself, or TRL, has written has no `base.json`: its base is then the one that its config names, unchecked.

Left out: everything in PEFT's format that is not LoRA of linear maps with one alpha.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from palate import disk
from palate.errors import ModelError
from palate.lm.adapters import adapted, hang, is_transposed, places
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
    found, prefix = adapted(model), model.model.prefix
    first = next(iter(found.values()))
    scalar = isinstance(model, ScalarModel)
    layers = sorted({next(int(part) for part in name.split(".") if part.isdigit()) for name in found})
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
        "base_model_name_or_path": named,
        "inference_mode": True,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "use_rslora": first.rank_stabilized,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(dict.fromkeys(name.rpartition(".")[-1] for name in found)),
        "layers_to_transform": None if layers == list(range(model.model.shape.num_layers)) else layers,
        "fan_in_fan_out": any(is_transposed(model.get_submodule(name)) for name in found),
        "modules_to_save": ["score"] if scalar else None,
    }
    tensors = {
        f"{_PREFIX}{name.removeprefix(prefix)}.{which}.weight": getattr(adapter, which)
        for name, adapter in found.items()
        for which in ("lora_A", "lora_B")
    }
    if isinstance(model, ScalarModel):
        tensors[_HEAD] = model.score.weight
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, directory / WEIGHTS, metadata={"format": "pt"})
    for name, content in ((CONFIG, config), (BASE, asdict(base))):
        (directory / name).write_text(disk.json_text(content, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def read(directory: Path, model: Model) -> None:
    """Hang the adapters in a directory on a model that has none.

    Raises:
        ModelError: they cannot be read, or they do not fit it.
    """
    try:
        config, tensors = _config(directory), load_file(directory / WEIGHTS)
        alpha, rank_stabilized = float(config["lora_alpha"]), bool(config.get("use_rslora"))
    except Exception as error:
        raise ModelError(f"{directory}: the adapter cannot be read ({' '.join(str(error).split())})") from None
    _check(directory, config)
    if isinstance(model, ScalarModel) and _HEAD in tensors:
        model.score.weight.copy_(tensors.pop(_HEAD))
    for name, place in places(model).items():
        key = f"{_PREFIX}{name.removeprefix(model.model.prefix)}"
        a, b = (tensors.pop(f"{key}.{which}.weight", None) for which in ("lora_A", "lora_B"))
        if a is not None and b is not None:
            adapter = hang(place, rank=len(a), alpha=alpha, rank_stabilized=rank_stabilized)
            if (adapter.lora_A.shape, adapter.lora_B.shape) != (a.shape, b.shape):
                raise ModelError(f"{directory}: the adapter was made for another model: {name} has another size")
            adapter.lora_A.copy_(a)
            adapter.lora_B.copy_(b)
    if tensors:
        raise ModelError(f"{directory}: the adapter does not fit its base: unknown {', '.join(sorted(tensors)[:3])}")


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
        "alpha_pattern": ({}, None),
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
