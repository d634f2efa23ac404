"""A model before its weights are read: its network with shapes and no memory, for estimates.

A config and a tokenizer are enough; where the weights are there, their files say how precise each is, and which are
the same in two models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic

import torch
from safetensors import safe_open
from torch import Tensor

from palate.lm import foreign
from palate.lm.adapters import merge
from palate.lm.chat import Chat
from palate.lm.decoder import Decoder
from palate.lm.families import NotCovered, shape_of
from palate.lm.model import ModelT, ScalarModel
from palate.lm.sources import peft_format
from palate.lm.sources.opening import Precision, count_heads, default_device, open_model, product_dtype
from palate.lm.sources.whereabouts import has_weights, lowest_first, weight_files

HALF = {"BF16": torch.bfloat16, "F16": torch.float16}
"""The dtypes that weights keep in memory, as their files name them."""


asked_about: ContextVar[str] = ContextVar("asked_about", default="")
"""The type of device that an estimate is asked about, if it is not the one that models run on here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch(Generic[ModelT]):
    """A model without its weights.

    Attributes:
        model: on the meta device.
        device: where it is going to run.
        counted_on: the device whose memory is counted: the same, or one that it is only asked about.
        anew: makes the network once more, as it is in its file.
    """

    model: ModelT
    chat: Chat
    device: str
    counted_on: str
    anew: Callable[[], ModelT]


def sketch_model(
    name: str,
    kind: type[ModelT],
    *,
    chat_template: str = "",
    precision: Precision = "auto",
    heads: int | None = None,
    device: str | None = None,
) -> Sketch[ModelT]:
    """What is known of a model without its weights; arguments and errors are those of loading it."""
    directory, *adapters = lowest_first(name, weights=False)
    device = device or default_device()
    counted_on = asked_about.get() or device
    config, chat = open_model([directory, *adapters], name, chat_template)
    if kind is ScalarModel:
        config.num_labels = count_heads(config, adapters, name, heads)
    dtypes = _dtypes(weight_files(directory)) if has_weights(directory) else {}
    # what the config says is a dtype, or its name, or nothing
    usual = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(config.dtype).rpartition(".")[-1])
    usual = next(iter(dtypes.values()), usual or torch.float32)
    is_elsewhere = counted_on != device and precision == "auto"  # every GPU of today multiplies bf16
    dtype = torch.bfloat16 if is_elsewhere else product_dtype(precision, counted_on)
    try:
        shape = shape_of(config)
    except NotCovered:
        shape = None

    def anew() -> ModelT:
        with torch.device("meta"):
            model = kind(config, Decoder(shape, dtype)) if shape else foreign.sketch(name, kind, config, dtype)
            for key, weight in model.named_parameters():
                place = key.removeprefix(model.model.prefix)
                if shape and key != "score.weight":  # fused ones have another name there
                    weight.data = weight.data.to(dtypes.get(place, usual))
                setattr(weight, _STORED, (directory, place, weight.numel() * weight.element_size()))
            for adapter in adapters:
                merge(model)
                peft_format.read(adapter, model)
        return model

    return Sketch(model=anew(), chat=chat, device=device, counted_on=counted_on, anew=anew)


def _dtypes(files: list[Path]) -> dict[str, torch.dtype]:
    """As what the weights are kept in memory; those in half precision stay so."""
    found: dict[str, torch.dtype] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            found |= {key: HALF.get(file.get_slice(key).get_dtype(), torch.float32) for key in file.keys()}  # noqa: SIM118
    return found


_STORED = "stored"
"""Under this name a weight of a sketch knows its directory, its key in there, and its bytes."""


def bytes_in_files(weights: Iterable[Tensor]) -> int:
    """That are read when these weights of sketches are, each once."""
    places = {getattr(weight, _STORED, ("", "", 0)) for weight in weights}
    return sum(size for *_, size in places)


def stored_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two weights of sketches will be equal when they have been read."""
    places = getattr(a, _STORED, None), getattr(b, _STORED, None)
    if a.shape != b.shape or None in places:
        return False
    first, second = (each[:2] for each in places if each)
    return first == second or _equal_in_files(first, second)


@cache
def _equal_in_files(a: tuple[Path, str], b: tuple[Path, str]) -> bool:
    if not (has_weights(a[0]) and has_weights(b[0])):
        return False
    with ExitStack() as stack:
        found: list[Any] = []
        for directory, key in (a, b):
            files = (stack.enter_context(safe_open(file, "pt")) for file in weight_files(directory))
            found += [file.get_tensor(key) for file in files if key in file.keys()]  # noqa: SIM118 (it is no mapping)
        return len(found) == 2 and torch.equal(*found)
