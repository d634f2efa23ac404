"""Which models somebody may name: looked at without loading any, since that is the work of another process."""

from __future__ import annotations

import re
from pathlib import Path

from palate.errors import ConflictError

ZOO = {
    "smollm2-135m": "SmolLM2, 135 million weights: small enough for a laptop, and comes with Palate",
    "tiny": "A random model that writes nonsense in no time, to try the app with",
}
"""The models that need no network; the same as in `palate.lm.sources.builtin`, which would bring torch along."""

MODEL_FILES = ("config.json", "adapter_config.json")
"""One of them lies in the directory of every model: a whole one, or an adapter."""


def check(workspace: Path, name: str) -> str:
    """What a model is to be called in recipes: a name, or a directory, relative to the workspace if it is inside.

    Raises:
        ConflictError: nothing of that name can be a model.
    """
    if name in ZOO:
        return name
    directory = (workspace / name.replace("\0", "?")).resolve()  # which no name has, and Python refuses in a path
    if _is_model(directory):
        inside = directory.is_relative_to(workspace)
        return str(directory.relative_to(workspace)) if inside else str(directory)
    on_hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) and not name.startswith("runs/")
    if on_hub and not directory.is_dir():
        return name
    raise ConflictError(
        f"no model there: name a directory with config.json and safetensors, a Hugging Face model (owner/name), "
        f"or one of {', '.join(ZOO)}"
    )


def _is_model(directory: Path) -> bool:
    """Whether it holds a model, itself or as a run does."""
    try:
        return any((directory / inside / file).is_file() for inside in (".", "model") for file in MODEL_FILES)
    except OSError:  # a name that no file can have
        return False
