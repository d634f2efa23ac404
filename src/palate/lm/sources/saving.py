"""How a model is written: a plain Hugging Face directory, or the adapters alone in PEFT's format.

A language model loads in plain transformers as `AutoModelForCausalLM`, a reward or value model as
`AutoModelForSequenceClassification` with a label for each of its heads, mostly one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate import disk
from palate.lm.adapters import adapted, merged
from palate.lm.chat import Chat
from palate.lm.model import Model, ScalarModel
from palate.lm.sources import peft_format
from palate.lm.sources.builtin import BUILTIN
from palate.lm.sources.loaded import Loaded
from palate.lm.sources.whereabouts import locate


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

    disk.write_directory(directory, write)


def _write_adapter(temporary: Path, model: Model, beside: Loaded[Any], directory: Path) -> None:
    """The adapters alone, for ``directory``, and which model they belong to."""
    path = Path(beside.name)
    is_path = beside.name not in BUILTIN and path.exists()
    home = locate(beside.name)
    base = peft_format.base_at(home if is_path else None, beside.name, beside.weights, directory)
    on_hub = not is_path and beside.name not in BUILTIN
    peft_format.write(temporary, model, base, beside.name if on_hub else str(home.resolve()))
