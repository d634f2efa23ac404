"""Chat templates: our own for families of models by name, whatever a file holds, and what a template does.

    layout       conversations as text, turn by turn, through any template
    differences  what the model's own rendering has otherwise, in words

No tokens here: those are `chat.py`'s.

Each `.jinja` beside this file is written for what training needs: what a turn looks like does not depend on later
turns, a response follows its prompt directly, and `{% generation %}` marks what the model says itself, its end
included. A template knows no date, no default system turn and no tools unless its line below says so.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.errors import TemplateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A template of our own.

    Attributes:
        file: the name of its file, without `.jinja`.
        models: whose format it is.
        bos: it begins with BOS where the tokenizer begins plain text with it; the others say themselves.
    """

    file: str
    models: str
    bos: bool = False


FAMILIES: Mapping[str, Family] = {
    "plain": Family(file="plain", models="base models that have no template of their own", bos=True),
    "chatml": Family(file="chatml", models="SmolLM2, Qwen 2, Hermes and others with `<|im_start|>`", bos=True),
    "qwen2.5": Family(file="qwen", models="Qwen 2.5; shows tools, calls and results"),
    "qwen3": Family(file="qwen", models="Qwen 3, thoughts are part of the response; shows tools, calls and results"),
    "qwen3-no-thinking": Family(file="qwen3-no-thinking", models="Qwen 3, every response after an empty thought"),
    "llama3": Family(file="llama3", models="Llama 3.0 to 3.2, without dates"),
    "mistral": Family(file="mistral", models="Mistral 7B Instruct 0.1 and 0.2, Mixtral"),
    "mistral-v0.3": Family(file="mistral-v0.3", models="Mistral 7B Instruct 0.3 and others with `[INST]` as a token"),
    "gemma": Family(file="gemma", models="Gemma 1 to 3"),
    "phi3": Family(file="phi3", models="Phi 3 and 3.5"),
    "phi4": Family(file="phi4", models="Phi 4"),
    "phi4-mini": Family(file="phi4-mini", models="Phi 4 mini"),
    "deepseek-r1-distill": Family(
        file="deepseek-r1-distill", models="DeepSeek R1's distillations, thoughts are part of the response"
    ),
    "zephyr": Family(file="zephyr", models="Zephyr, StableLM 2, TinyLlama"),
    "tulu": Family(file="tulu", models="Tülu 2 and 3", bos=True),
    "olmo2": Family(file="olmo2", models="OLMo 2"),
}
"""The names that `chat_template` knows."""


def find_template(name: str, tokenizer: Any) -> str:
    """The template that a recipe's `chat_template` names: a family's, or that of a file or a model's directory.

    Raises:
        TemplateError: there is none.
    """
    if family := FAMILIES.get(name):
        text = (Path(__file__).parent / f"{family.file}.jinja").read_text(encoding="utf-8").rstrip("\n")
        return "{{- bos_token -}}\n" + text if family.bos and _begins_with_bos(tokenizer) else text
    path = Path(name)
    if path.is_dir():
        files = [
            path / part / file for part in ("", "model") for file in ("chat_template.jinja", "tokenizer_config.json")
        ]
        path = next((file for file in files if file.exists()), path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the families are {', '.join(FAMILIES)}"
        reason = "no template in it" if path.is_dir() else getattr(error, "strerror", None) or str(error)
        raise TemplateError(f"chat_template = {name!r}: neither a family nor a file ({reason}); {hint}") from None
    return _in_config(text, path) if path.suffix == ".json" else text


def _in_config(text: str, path: Path) -> str:
    """The template in a `tokenizer_config.json`."""
    try:
        template = json.loads(text)["chat_template"]
    except (ValueError, KeyError, TypeError):
        template = None
    if not isinstance(template, str):
        raise TemplateError(f"chat_template: {path} holds no template: name a file that is one")
    return template


def _begins_with_bos(tokenizer: Any) -> bool:
    return bool(tokenizer.bos_token) and list(tokenizer("").input_ids[:1]) == [tokenizer.bos_token_id]
