"""A model in memory: its weights read out of their files, each once, and the adapters that are on it.

The families of `families.py` run in our own network, every other one in transformers' code (`foreign.py`). Only
safetensors are read as weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from safetensors import safe_open
from torch import Tensor

from palate.errors import ModelError
from palate.lm import foreign
from palate.lm.adapters import merge
from palate.lm.backbone import draw_scalar_heads
from palate.lm.chat import Chat
from palate.lm.decoder import Decoder
from palate.lm.families import NotCovered, Shape, shape_of, split
from palate.lm.memory import keep_freed_memory
from palate.lm.model import LanguageModel, Model, ModelT, ScalarModel
from palate.lm.projection import leave_in_file
from palate.lm.sources import peft_format
from palate.lm.sources.opening import Precision, count_heads, default_device, open_model, product_dtype
from palate.lm.sources.whereabouts import digest, in_one_line, lowest_first, weight_files
from palate.randomness import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[ModelT]):
    """A model, its tokenizer and where they came from.

    Attributes:
        name: as the user gave it.
        weights: hash of the weight files, those of an adapter's base included.
    """

    model: ModelT
    chat: Chat
    name: str
    weights: str


SCORE = "score.weight"
"""The heads of a reward or value model, which are small."""

Settle = Callable[[Model], None]
"""Called with a model that was read and is not on its device yet: what it has in common with others is never there
twice."""


_in_files: ContextVar[bool] = ContextVar("in_files", default=False)


@contextmanager
def left_in_files() -> Iterator[None]:
    """Models that are loaded in here are not read yet: their weights lie in their files until they are divided.

    They are mapped into memory, where the processes of a machine have them once and the system may drop them again, and
    no model is on its device. Those of families that run in transformers' code are read, and stay on the host.
    """
    token = _in_files.set(True)
    try:
        yield
    finally:
        _in_files.reset(token)


def load_language_model(
    name: str,
    *,
    chat_template: str = "",
    precision: Precision = "auto",
    device: str | None = None,
    settle: Settle | None = None,
) -> Loaded[LanguageModel]:
    """A causal language model.

    Args:
        name: a path, a Hugging Face name, or one of the builtin models.
        chat_template: a family's name or a file, in place of the model's own template.
        precision: of matrix products.
        device: the GPU if there is one, unless named.
        settle: what is done with it before it is put there.

    Raises:
        ModelError: no such model, or one that cannot be used; says what to do.
    """
    return _load(name, LanguageModel, chat_template, precision, device, settle)


def load_scalar_model(
    name: str,
    *,
    chat_template: str = "",
    precision: Precision = "auto",
    seed: int = 0,
    heads: int | None = None,
    device: str | None = None,
    settle: Settle | None = None,
) -> Loaded[ScalarModel]:
    """A reward or value model; from a language model's directory it gets new, small heads drawn from ``seed``.

    Args:
        heads: how many; those of its own, or one, if left out.

    Raises:
        ModelError: as for a language model; or it has heads already, and another number of them.
    """
    return _load(name, ScalarModel, chat_template, precision, device, settle, seed, heads)


def _load(
    name: str,
    kind: type[ModelT],
    chat_template: str,
    precision: Precision,
    device: str | None,
    settle: Settle | None,
    seed: int = 0,
    heads: int | None = None,
) -> Loaded[ModelT]:
    directory, *adapters = lowest_first(name)
    device = device or default_device()
    if device == "cpu":
        keep_freed_memory()
    in_files = _in_files.get()
    config, chat = open_model([directory, *adapters], name, chat_template)
    if kind is ScalarModel:
        config.num_labels = count_heads(config, adapters, name, heads)
    files, dtype = weight_files(directory), product_dtype(precision, device)
    try:
        shape = shape_of(config)
    except NotCovered as what:
        model = foreign.read(directory, name, kind, config, dtype, head_seed=derive_seed(seed, "head"), what=str(what))
    else:
        with torch.device("meta"):
            model = kind(config, Decoder(shape, dtype))
        _fill(model, shape, dict(_weights(directory, files, mapped=in_files)), seed, name)
        for key, weight in model.named_parameters() if in_files else ():
            if key != SCORE:
                leave_in_file(weight)
    weights = digest(files)
    for adapter in adapters:
        if peft_format.read_base(adapter).weights not in ("", weights):
            raise peft_format.changed(adapter, str(directory))
        merge(model)  # the one below
        peft_format.read(adapter, model)
        directory, weights = adapter, digest(weight_files(adapter), weights)
    if settle is not None:
        settle(model)
    return Loaded(model=model if in_files else model.to(device), chat=chat, name=name, weights=weights)


def _weights(directory: Path, files: list[Path], *, mapped: bool = False) -> Iterator[tuple[str, Tensor]]:
    """One after the other, as precise as they are in their file; what is going to learn is made fp32 later."""
    try:
        for path in files:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    if not key.endswith("rotary_emb.inv_freq"):  # very old files have these; they say nothing
                        yield key, _stored(key, file.get_tensor(key), mapped=mapped)
    except Exception as error:
        what = f"the weights cannot be read ({in_one_line(error)}); the file may be torn"
        raise ModelError(f"{directory}: {what}") from None


def _stored(key: str, tensor: Tensor, *, mapped: bool) -> Tensor:
    """In memory of its own, not in that of the file, which somebody may write over; unless it is divided soon.

    A head of one number is multiplied with as it is, and dtypes that nothing multiplies are no way to keep it.
    """
    is_kept = tensor.dtype in (torch.bfloat16, torch.float16) and key != SCORE
    if mapped and (is_kept or (tensor.dtype == torch.float32 and key != SCORE)):
        return tensor
    return torch.empty_like(tensor, dtype=tensor.dtype if is_kept else torch.float32).copy_(tensor)


def _fill(model: Model, shape: Shape, state: dict[str, Tensor], seed: int, name: str) -> None:
    """Let the weights be those of a model that has none.

    Missing scalar heads are drawn small, an unembedding that is not wanted is left aside.
    """
    tied = isinstance(model, LanguageModel) and model.config.tie_word_embeddings
    if tied or isinstance(model, ScalarModel):
        state.pop("lm_head.weight", None)
    optional = {"lm_head.weight"} if tied else {SCORE} if isinstance(model, ScalarModel) else set()
    try:
        missing, unexpected = model.load_state_dict(split(shape, state), strict=False, assign=True)
    except RuntimeError as error:  # other shapes
        raise ModelError(f"{name}: the weights do not fit the config: {in_one_line(error)}") from None
    if wrong := [*(set(missing) - optional), *unexpected]:
        raise ModelError(
            f"{name}: the weights do not fit the config: missing or unknown {', '.join(sorted(wrong)[:5])}"
        )
    if isinstance(model, LanguageModel) and tied:
        head, embeddings = model.lm_head, model.model.lower(0)[0]
        head.weight = embeddings.weight
    if isinstance(model, ScalarModel) and SCORE in missing:
        model.score.to_empty(device="cpu")
        draw_scalar_heads(model.score, derive_seed(seed, "head"))
