"""Rewards for runs that are watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def lower_case(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """How many small letters a response has."""
    return [float(sum(character.islower() for character in response)) for response in responses]


def characters(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """How many characters it has, in tens."""
    return [len(response) / 10 for response in responses]


def brevity(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Minus that."""
    return [-number for number in characters(prompts, responses)]


def unlike(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """A number that hardly two responses share, and hardly one has half way between two others."""
    return [sum(place * ord(char) for place, char in enumerate(text, 1)) % 997 / 100 for text in responses]
