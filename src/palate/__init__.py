"""Palate teaches a language model a group of people's taste: reinforcement learning from human feedback, all of it.

The names below are the public API. They are imported when they are first used, so that `import palate` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palate.errors import PalateError
    from palate.recipe import load_recipe
    from palate.records import Candidates, Demonstration, Message, Prompt, Ranking, Response
    from palate.run.directory import Run

__version__ = "0.1.0"

_HOME = {
    "Candidates": "records",
    "Demonstration": "records",
    "Message": "records",
    "PalateError": "errors",
    "Prompt": "records",
    "Ranking": "records",
    "Response": "records",
    "Run": "run.directory",
    "load_recipe": "recipe",
}

__all__ = [
    "Candidates",
    "Demonstration",
    "Message",
    "PalateError",
    "Prompt",
    "Ranking",
    "Response",
    "Run",
    "__version__",
    "load_recipe",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'palate' has no attribute {name!r}")
    return getattr(import_module(f"palate.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
