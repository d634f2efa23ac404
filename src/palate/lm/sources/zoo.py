"""Where models come from, and how they are written back.

    "tiny"            a random model of a few thousand weights with a byte tokenizer, for tests
    "smollm2-135m"    SmolLM2-135M-Instruct out of its Python package, converted once into the cache; no network
    anything else     a directory, or a name on the Hugging Face hub

The families of `families.py` run in our own network, every other one in transformers' code (`foreign.py`). Only
safetensors are read as weights. What `save` writes loads in plain transformers: a language model as
`AutoModelForCausalLM`, a reward or value model as `AutoModelForSequenceClassification` with a label for each of its
heads, mostly one. An adapter alone is written in PEFT's format; its directory stands for the model it belongs to with
the adapter on it, wherever a model is named.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from palate import disk
from palate.errors import ModelError
from palate.lm import foreign
from palate.lm.adapters import adapted, merge, merged
from palate.lm.backbone import draw_scalar_heads
from palate.lm.chat import Chat
from palate.lm.decoder import Decoder
from palate.lm.families import NotCovered, Shape, shape_of, split
from palate.lm.memory import keep_freed_memory
from palate.lm.model import LanguageModel, Model, ScalarModel
from palate.lm.products import is_row_invariant, multiplies_bf16
from palate.lm.sources import peft_format
from palate.lm.sources.builtin import BUILTIN
from palate.lm.templates import find_template
from palate.randomness import derive_seed

Precision = Literal["auto", "bf16", "fp32"]
ModelT = TypeVar("ModelT", bound=Model)


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


def load_language_model(
    name: str, *, chat_template: str = "", precision: Precision = "auto", device: str | None = None
) -> Loaded[LanguageModel]:
    """A causal language model.

    Args:
        name: a path, a Hugging Face name, or one of the builtin models.
        chat_template: a family's name or a file, in place of the model's own template.
        precision: of matrix products.
        device: the GPU if there is one, unless named.

    Raises:
        ModelError: no such model, or one that cannot be used; says what to do.
    """
    return _load(name, LanguageModel, chat_template, precision, device)


def load_scalar_model(
    name: str,
    *,
    chat_template: str = "",
    precision: Precision = "auto",
    seed: int = 0,
    heads: int | None = None,
    device: str | None = None,
) -> Loaded[ScalarModel]:
    """A reward or value model; from a language model's directory it gets new, small heads drawn from ``seed``.

    Args:
        heads: how many; those of its own, or one, if left out.

    Raises:
        ModelError: as for a language model; or it has heads already, and another number of them.
    """
    return _load(name, ScalarModel, chat_template, precision, device, seed, heads)


def _load(
    name: str,
    kind: type[ModelT],
    chat_template: str,
    precision: Precision,
    device: str | None,
    seed: int = 0,
    heads: int | None = None,
) -> Loaded[ModelT]:
    directory, *adapters = _lowest_first(name)
    device = device or default_device()
    if device == "cpu":
        keep_freed_memory()
    config, chat = _read([directory, *adapters], name, chat_template)
    if kind is ScalarModel:
        config.num_labels = _count_heads(config, adapters, name, heads)
    files, dtype = weight_files(directory), product_dtype(precision, device)
    try:
        shape = shape_of(config)
    except NotCovered as what:
        model = foreign.read(directory, name, kind, config, dtype, head_seed=derive_seed(seed, "head"), what=str(what))
    else:
        model = kind(config, Decoder(shape, dtype))
        _fill(model, shape, _weights(directory, files), seed, name)
    weights = _digest(files)
    for adapter in adapters:
        if peft_format.read_base(adapter).weights not in ("", weights):
            raise peft_format.changed(adapter, str(directory))
        merge(model)  # the one below
        peft_format.read(adapter, model)
        directory, weights = adapter, _digest(weight_files(adapter), weights)
    return Loaded(model=model.to(device), chat=chat, name=name, weights=weights)


def _count_heads(config: Any, adapters: list[Path], name: str, wanted: int | None) -> int:
    """How many heads a reward or value model is to have: what is wanted, or else what it has, or else one.

    Raises:
        ModelError: it has heads, and another number of them is wanted.
    """
    is_scalar = any(each.endswith(ScalarModel.head) for each in config.architectures or ())
    has = next(filter(None, map(peft_format.count_heads, reversed(adapters))), config.num_labels if is_scalar else 0)
    if wanted and has and wanted != has:
        raise ModelError(f"{name} is a reward model of {has} heads, not {wanted}: start from a language model")
    return wanted or has or 1


def _lowest_first(name: str) -> list[Path]:
    """The directory of the whole model behind a name, and those of the adapters on it.

    Raises:
        ModelError: one of them is not there.
    """
    found = [locate(name)]
    while peft_format.is_adapter(directory := found[0]):
        base = peft_format.read_base(directory)
        below = [directory / place for place in base.places if _holds_model(directory / place)]
        below = below or [locate(place) for place in base.places[-1:] if not Path(place).is_absolute()]
        if not below or below[0].resolve() in [each.resolve() for each in found]:
            raise ModelError(
                f"{name}: its base is not at {' or '.join(base.places)}: put it back, or say in "
                f"{directory / peft_format.BASE} where it is"
            )
        found.insert(0, below[0])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch(Generic[ModelT]):
    """A model before its weights are read: its tokenizer, and its network with shapes and no memory.

    Attributes:
        model: on the meta device.
        device: where it is going to run.
        anew: makes the network once more, as it is in its file.
    """

    model: ModelT
    chat: Chat
    device: str
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
    directory, *adapters = _lowest_first(name)
    device = device or default_device()
    config, chat = _read([directory, *adapters], name, chat_template)
    if kind is ScalarModel:
        config.num_labels = _count_heads(config, adapters, name, heads)
    dtype, dtypes = product_dtype(precision, device), _dtypes(weight_files(directory))
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
                    weight.data = weight.data.to(dtypes.get(place, next(iter(dtypes.values()))))
                setattr(weight, _STORED, (directory, place))
            for adapter in adapters:
                merge(model)
                peft_format.read(adapter, model)
        return model

    return Sketch(model=anew(), chat=chat, device=device, anew=anew)


def _dtypes(files: list[Path]) -> dict[str, torch.dtype]:
    """As what the weights are kept in memory; those in half precision stay so."""
    half = {"BF16": torch.bfloat16, "F16": torch.float16}
    found: dict[str, torch.dtype] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            found |= {key: half.get(file.get_slice(key).get_dtype(), torch.float32) for key in file.keys()}  # noqa: SIM118
    return found


_STORED = "stored"
"""Under this name a weight of a sketch knows its directory and its key in there."""


def stored_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two weights of sketches will be equal when they have been read."""
    places = getattr(a, _STORED, None), getattr(b, _STORED, None)
    if a.shape != b.shape or None in places:
        return False
    return places[0] == places[1] or _equal_in_files(*places)


@cache
def _equal_in_files(a: tuple[Path, str], b: tuple[Path, str]) -> bool:
    with ExitStack() as stack:
        found = []
        for directory, key in (a, b):
            files = (stack.enter_context(safe_open(file, "pt")) for file in weight_files(directory))
            found += [file.get_tensor(key) for file in files if key in file.keys()]  # noqa: SIM118 (it is no mapping)
        return len(found) == 2 and torch.equal(*found)


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def product_dtype(precision: Precision, device: str = "cpu") -> torch.dtype:
    """The dtype of matrix products: bf16 where that is quick, and as good as fp32, unless told otherwise.

    Quick where the hardware multiplies it. On a processor it is as good if sampling and training round the same sums.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    kind = torch.device(device).type
    return torch.bfloat16 if multiplies_bf16(kind) and (kind != "cpu" or is_row_invariant()) else torch.float32


def locate(name: str) -> Path:
    """The directory that holds a model, converting or fetching it first if need be.

    Raises:
        ModelError: there is none.
    """
    if name in BUILTIN:
        return _cached(*BUILTIN[name])
    path = Path(name)
    for directory in (path, path / "model"):  # itself, or a run directory
        if _holds_model(directory):
            return directory
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "runs/")):
        raise ModelError(
            f"{name}: no model there; name a directory with config.json and safetensors, a Hugging Face model "
            f"(owner/name), or one of: {', '.join(BUILTIN)}"
        )
    return _from_hub(name)


def _holds_model(directory: Path) -> bool:
    return (directory / "config.json").exists() or peft_format.is_adapter(directory)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
    except Exception as error:
        raise ModelError(f"{name}: no such directory, and the Hugging Face hub: {_line(error)}") from None


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


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    directory = cache_directory() / name
    if not (directory / "config.json").exists():
        _write_whole(directory, make, replace=False)
    return directory


def load_chat(name: str, *, chat_template: str = "") -> Chat:
    """A model's tokenizer and template, without its weights.

    Raises:
        ModelError: no such model, or its tokenizer or template cannot be used.
    """
    return _read(_lowest_first(name), name, chat_template)[1]


def _read(directories: list[Path], name: str, chat_template: str) -> tuple[Any, Chat]:
    """The config of a model and its tokenizer, which an adapter may have brought along."""
    from transformers import AutoConfig, AutoTokenizer

    home = next((each for each in reversed(directories) if (each / "tokenizer_config.json").exists()), directories[0])
    try:
        config = AutoConfig.from_pretrained(directories[0], local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(home, local_files_only=True)
    except Exception as error:  # a torn tokenizer.json raises that very class
        raise ModelError(f"{name}: not a Hugging Face model directory: {_line(error)}") from None
    if chat_template:
        tokenizer.chat_template = find_template(chat_template, tokenizer)
    chat = Chat(tokenizer)
    _check_tokens(chat, config, name)
    # what transformers and vLLM go by when they pad, and when they stop
    config.pad_token_id = chat.pad_id
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if chat.stop_id not in stops:
        config.eos_token_id = chat.stop_id
    return config, chat


def _check_tokens(chat: Chat, config: Any, name: str) -> None:
    """Every token that may be met has a row in the embeddings.

    A special token that neither the template nor padding uses is never met, since text is no special token: Gemma 3 has
    one for images behind its last row.

    Raises:
        ModelError: the tokenizer has more tokens than the model.
    """
    tokenizer, num_rows = chat.tokenizer, int(config.get_text_config().vocab_size)
    added = tokenizer.added_tokens_decoder
    if max([len(tokenizer) - 1, *added]) < num_rows:
        return
    used = {chat.stop_id, chat.pad_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
    template = str(tokenizer.chat_template)
    unused = {place for place, token in added.items() if token.special and token.content not in template} - used
    if any(place >= num_rows and place not in unused for place in tokenizer.get_vocab().values()):
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, the model {num_rows} embeddings: take the tokenizer "
            "that belongs to the model, or resize the embeddings after adding tokens"
        )


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


def _weights(directory: Path, files: list[Path]) -> dict[str, Tensor]:
    try:
        return {key: tensor for file in files for key, tensor in load_file(file).items()}
    except Exception as error:
        raise ModelError(f"{directory}: the weights cannot be read ({_line(error)}); the file may be torn") from None


def _digest(files: list[Path], below: str = "") -> str:
    """Of the weights in these files, and of those below them."""
    digest = hashlib.blake2b(below.encode(), digest_size=16)
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _fill(model: Model, shape: Shape, state: dict[str, Tensor], seed: int, name: str) -> None:
    """Load the weights, as precise as they are in their file; what is going to learn is made fp32 later.

    Missing scalar heads are drawn small, an unembedding that is not wanted is left aside.
    """
    state = {key: _stored(key, tensor) for key, tensor in state.items() if not key.endswith("rotary_emb.inv_freq")}
    optional = {"score.weight"} if isinstance(model, ScalarModel) else set()
    if isinstance(model, ScalarModel) or model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
        optional.add("lm_head.weight")
    try:
        state = split(shape, state)
        for key, parameter in model.named_parameters():
            if key in state:
                parameter.data = parameter.data.to(state[key].dtype)
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # other shapes
        raise ModelError(f"{name}: the weights do not fit the config: {_line(error)}") from None
    if wrong := [*(set(missing) - optional), *unexpected]:
        raise ModelError(
            f"{name}: the weights do not fit the config: missing or unknown {', '.join(sorted(wrong)[:5])}"
        )
    if isinstance(model, ScalarModel) and "score.weight" in missing:
        draw_scalar_heads(model.score, derive_seed(seed, "head"))


def _stored(key: str, tensor: Tensor) -> Tensor:
    """A head of one number is multiplied with as it is, and dtypes that nothing multiplies are no way to keep it."""
    is_kept = tensor.dtype in (torch.bfloat16, torch.float16) and key != "score.weight"
    return tensor if is_kept else tensor.float()


def save(
    model: Model,
    chat: Chat,
    directory: Path,
    *,
    beside: Loaded[Any] | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Write a plain Hugging Face directory, complete or not at all.

    Args:
        model: to be written; its adapters are merged into its weights.
        chat: its tokenizer and template.
        directory: replaced if it is there.
        beside: what the adapters were learned beside; they alone are written then, in PEFT's format.
        extra_files: name -> text.
    """
    assert not (isinstance(model, ScalarModel) and model.offset), "a rescaled model has no place for its offset there"

    def write(temporary: Path) -> None:
        if beside is not None:
            _write_adapter(temporary, model, beside, directory)
        else:
            whole = merged(model) if adapted(model) else model
            state = {key: tensor.float() for key, tensor in whole.state_dict().items()}
            whole.model.write(temporary, whole.config, state, whole.head)
        chat.tokenizer.save_pretrained(temporary)
        for name, text in (extra_files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")

    _write_whole(directory, write)


def _write_adapter(temporary: Path, model: Model, beside: Loaded[Any], directory: Path) -> None:
    """The adapters alone, for ``directory``, and which model they belong to."""
    path = Path(beside.name)
    is_path = beside.name not in BUILTIN and path.exists()
    home = locate(beside.name)
    base = peft_format.base_at(home if is_path else None, beside.name, beside.weights, directory)
    on_hub = not is_path and beside.name not in BUILTIN
    peft_format.write(temporary, model, base, beside.name if on_hub else str(home.resolve()))


def _write_whole(directory: Path, write: Callable[[Path], None], *, replace: bool = True) -> None:
    """Under a temporary name first, so that a directory is complete or not there.

    Args:
        directory: in the end.
        write: given an empty directory.
        replace: a directory that is there by then; otherwise it stays, as another process has just made it.
    """
    with disk.disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        outer = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
        try:
            temporary = outer / "new"
            temporary.mkdir()  # unlike the outer one, with everybody's usual permissions
            write(temporary)
            for path in temporary.iterdir():  # safetensors makes files that nobody else may read
                path.chmod(temporary.stat().st_mode & 0o666)
            disk.flush_tree(temporary)
            if replace and directory.exists():
                directory.rename(outer / "old")
            try:
                temporary.rename(directory)
            except OSError:
                if replace or not directory.exists():
                    raise
            disk.flush(directory.parent)
        finally:
            shutil.rmtree(outer, ignore_errors=True)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
