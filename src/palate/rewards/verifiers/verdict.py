"""What a verifier says, and what it may take from a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from palate.errors import RewardError
from palate.records import Prompt

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score in [0, 1], and why, in one line."""

    score: float
    reason: str


def known(prompt: Prompt, tag: str) -> str:
    """What the prompt's tag says.

    Raises:
        RewardError: the prompt has no such tag, or an empty one; names the prompt.
    """
    value = prompt.tags.get(tag, "")
    if not value.strip():
        raise unverifiable(prompt, f"has no tag {tag!r}, which holds what is known: name its column in prompts.tags")
    return value


def unverifiable(prompt: Prompt, reason: str) -> RewardError:
    """An error that names the prompt."""
    text = " ".join(prompt.text.split())
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return RewardError(f"the prompt {prompt.id} ({shown!r}) {reason}; or leave it out")
