"""Answers that name the model they come from, or its maker: they would give a blind comparison away.

Two kinds of names. Those that mean nothing else (`ChatGPT`, `SmolLM`, `OpenAI`, and the names of the models in play)
count wherever they stand. Those that mean other things too (Claude, Llama, Gemini, Google) count where somebody speaks
of who they are or who made them. A name that the prompt itself uses gives nothing away. "I am an AI" names nobody and
is left alone.

Such an answer is dropped: masking it would let people judge a text that nobody wrote. What is imported ready-made is
shown all the same, with names blotted out (`blind.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath

from palate.records import Candidates, Prompt

PLAIN = (
    "Alibaba Cloud", "Anthropic", "BigScience", "ChatGLM", "ChatGPT", "Cohere", "DeepMind", "DeepSeek", "EleutherAI",
    "Ernie Bot", "GPT-2", "GPT-3", "GPT-3.5", "GPT-4", "GPT-4o", "GPT-5", "Hugging Face", "HuggingFace", "Mistral AI",
    "Mixtral", "Moonshot AI", "OLMo", "OpenAI", "OpenAssistant", "Qwen", "SmolLM", "StableLM", "Tongyi", "Vicuna",
    "xAI",
)  # fmt: skip
"""Names of assistants and their makers that mean nothing else."""

AMBIGUOUS = (
    "AI2", "Alibaba", "Alpaca", "Apple", "Baidu", "Bard", "Bing", "Bloom", "Claude", "Command R", "Copilot", "Dolly",
    "Falcon", "Gemini", "Gemma", "Google", "Grok", "IBM", "Koala", "Llama", "Meta", "Microsoft", "Mistral", "NVIDIA",
    "Orca", "Palm", "Phi", "Pythia", "Titan", "Yi", "Zephyr",
)  # fmt: skip
"""Names that count only where somebody says who they are or who made them."""

_FILLER = (
    r"(?:(?:a|an|the|your|large|language|ai|artificial|intelligence|virtual|helpful|friendly|digital|conversational|"
    r"assistant|model|chatbot|bot|named|called|known|as|just|simply),?\s+)*"
)
_SAYS_WHO = rf"\b(?:i\s+am|i['’]m|my\s+name\s+is|call\s+me|you\s+can\s+call\s+me)\s+{_FILLER}"
_SAYS_BY_WHOM = (
    r"\b(?:i\s+(?:was|am|have\s+been)\b[^.!?\n]{0,60}|(?:assistant|model|chatbot|ai)\s+(?:\w+\s+){0,3}?)"
    r"(?:made|built|developed|created|trained|designed|provided|released|powered)\s+(?:and\s+\w+\s+)?(?:by|at)\s+"
    r"(?:(?:the|researchers|engineers|people|team|a|at|from)\s+)*"
)
_COMMON = {"base", "best", "chat", "checkpoint", "demo", "final", "instruct", "merged", "mini", "model", "policy"}
_COMMON |= {"reinforce", "reward", "round", "sample", "small", "test", "tiny"}
"""Parts of models' names that are words of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What is left, and what was left out.

    Attributes:
        dropped: answers that named their model or its maker.
        items_dropped: prompts that were left with fewer answers than are needed.
    """

    candidates: tuple[Candidates, ...]
    dropped: int
    items_dropped: int


def names_of(model: str) -> tuple[str, ...]:
    """What a model may call itself, by its path or name: "org/SmolLM2-135M" -> SmolLM2-135M, SmolLM2, SmolLM."""
    name = PurePath(model).name
    first = re.split(r"[-_ .]", name)[0]
    found = [name, first, first.rstrip("0123456789")]
    return tuple(dict.fromkeys(each for each in found if len(each) >= 4 and each.lower() not in _COMMON))


def leaks(text: str, prompt: Prompt, models: Iterable[str] = ()) -> tuple[str, ...]:
    """The names that give an answer away, as they stand in it.

    Args:
        text: the answer.
        prompt: names it uses itself are no leak.
        models: names or paths of the models in play.
    """
    asked = " ".join(message.content for message in prompt.messages).casefold()
    found = [match["name"] for pattern in _patterns(tuple(models)) for match in pattern.finditer(text)]
    return tuple(dict.fromkeys(name for name in found if name.casefold() not in asked))


def screen(candidates: Sequence[Candidates], models: Iterable[str] = (), *, fewest: int = 2) -> Screened:
    """Leave out answers that name their model, and prompts that are left with fewer than ``fewest`` answers."""
    models = tuple(models)
    kept, dropped, items_dropped = [], 0, 0
    for item in candidates:
        clean = tuple(r for r in item.responses if not leaks(r.text, item.prompt, models))
        dropped += len(item.responses) - len(clean)
        if len(clean) >= min(fewest, len(item.responses)):
            kept.append(item.model_copy(update={"responses": clean}))
        else:
            items_dropped += 1
    return Screened(candidates=tuple(kept), dropped=dropped, items_dropped=items_dropped)


@cache
def _patterns(models: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    own = [name for model in models for name in names_of(model)]
    version = r"(?:[- ]?v?\d[\w.]*(?:-\w+)*)?"  # SmolLM2-135M, Llama 3
    before = ("", _SAYS_WHO, _SAYS_BY_WHOM, r"\bas\s+")
    after = ("", "", "", r"(?=,?\s+i\b)")
    names = ([*PLAIN, *own], AMBIGUOUS, AMBIGUOUS, AMBIGUOUS)
    return tuple(
        re.compile(rf"{head}(?<!\w)(?P<name>(?:{_either(which)}){version})(?!\w){tail}", re.IGNORECASE)
        for head, which, tail in zip(before, names, after, strict=True)
    )


def _either(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(set(names), key=len, reverse=True))
