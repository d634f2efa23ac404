"""Which engine a recipe asks for: the one place where that is decided.

Stages take what `make_engine` gives, hand it the weights before each rollout, and never ask what it is.
"""

from __future__ import annotations

from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.recipe import Engine
from palate.rollout.engine import RolloutEngine
from palate.rollout.local import LocalEngine
from palate.rollout.vllm import VLLMEngine

IN_PROCESS = Engine()
"""What a recipe asks for that says nothing."""


def make_engine(settings: Engine, model: LanguageModel, chat: Chat) -> RolloutEngine:
    """An engine for such models; it is given weights by `load_weights` before it is asked for anything.

    Args:
        settings: of the recipe.
        model: one of those that it will sample from.
        chat: how conversations with it are laid out.
    """
    if settings.kind == "vllm":
        return VLLMEngine(settings, model, chat)
    return LocalEngine(model, chat)
