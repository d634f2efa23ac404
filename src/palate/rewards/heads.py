"""What the heads of a reward model are: which objective each is for, and the origin and unit of its numbers.

A reward model of one head that learned an order has ``normalization.json`` beside its weights; any other one has
``heads.json``, with a line for each label of the network, in order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from palate import disk
from palate.errors import ModelError, RecipeError
from palate.recipe import ORDER

NORMALIZATION_FILE = "normalization.json"
HEADS_FILE = "heads.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """Origin and unit of a reward model's scores.

    Attributes:
        mean, scale: of the raw scores on the reference set.
        reference: which responses those were, in words.
        count: how many.
    """

    mean: float = 0.0
    scale: float = 1.0
    reference: str = "none"
    count: int = 0

    @classmethod
    def of(cls, scores: Tensor, reference: str) -> Self:
        """From raw scores [N]; a spread of zero leaves the unit as it is."""
        scale = float(scores.std(correction=0)) or 1.0
        return cls(mean=float(scores.mean()), scale=scale, reference=reference, count=len(scores))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """From a model's directory; the identity if it has none."""
        file = directory / NORMALIZATION_FILE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else cls()

    def to_json(self) -> str:
        """The file's content."""
        return disk.json_text(asdict(self), indent=2) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One number of a reward model.

    Attributes:
        objective: what it tells; the heads of one objective are an ensemble.
        flag: the flag whose log-odds it gives; empty where it gives a score.
        normalization: of a score; a flag's probability has a unit already.
        thresholds: the scores between which ratings change, where it learned from ratings; before normalisation.
    """

    objective: str = ORDER
    flag: str = ""
    normalization: Normalization = field(default_factory=Normalization)
    thresholds: tuple[float, ...] = ()

    def reward(self, raw: Tensor) -> Tensor:
        """[B] what RL is paid: the normalised score, or minus the probability of the flag, so that a price is above 0.

        Args:
            raw: [B] the head's own output.
        """
        if self.flag:
            return -torch.sigmoid(raw)
        return (raw - self.normalization.mean) / self.normalization.scale


def files_of(heads: Sequence[Head]) -> dict[str, str]:
    """What is to stand beside the weights, name -> text."""
    (first, *others) = heads
    if not others and first == Head(normalization=first.normalization):
        return {NORMALIZATION_FILE: first.normalization.to_json()}
    return {HEADS_FILE: disk.json_text([asdict(head) for head in heads], indent=2) + "\n"}


def read_heads(directory: Path, count: int) -> tuple[Head, ...]:
    """Those of a model's directory.

    Args:
        count: how many numbers the model gives.

    Raises:
        ModelError: nothing says what they are, or it speaks of another number of them.
    """
    file = directory / HEADS_FILE
    if not file.exists():
        found: tuple[Head, ...] = (Head(normalization=Normalization.read(directory)),)
    else:
        try:
            found = tuple(map(_head, json.loads(file.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{file} cannot be read ({' '.join(str(error).split())}): train the model again") from None
    if len(found) != count:
        what = f"{HEADS_FILE} speaks of {len(found)}" if file.exists() else f"no {HEADS_FILE} says what they are"
        raise ModelError(f"{directory} gives {count} numbers, and {what}: name a reward model that was trained here")
    return found


def _head(said: dict[str, Any]) -> Head:
    return Head(
        objective=said["objective"],
        flag=said["flag"],
        normalization=Normalization(**said["normalization"]),
        thresholds=tuple(said["thresholds"]),
    )


def places_of(heads: Sequence[Head], objective: str, name: str) -> list[int]:
    """Which of the heads are for an objective; without a name, for the only one there is.

    Raises:
        RecipeError: there is no such one, or no name and several.
    """
    there = list(dict.fromkeys(head.objective for head in heads))
    if not objective and len(there) > 1:
        raise RecipeError(f"{name} has several objectives: choose with objective one of {', '.join(there)}")
    if objective and objective not in there:
        raise RecipeError(f"{name} has no objective {objective!r}, but {', '.join(there)}")
    return [place for place, head in enumerate(heads) if head.objective == (objective or there[0])]


def of_order(heads: Sequence[Head]) -> list[int]:
    """Places of the heads of the first objective that gives scores; of all, if there are only flags."""
    first = next((head.objective for head in heads if not head.flag), None)
    return [place for place, head in enumerate(heads) if first in (None, head.objective)]


def value_units(heads: Sequence[Head]) -> dict[int, tuple[float, float]]:
    """By place, mean and scale of the heads whose mean a value model starts from: those that give scores.

    Where there are none, minus the log-odds of the flags.
    """
    scores = [(place, head.normalization) for place, head in enumerate(heads) if not head.flag]
    units = {place: (unit.mean, unit.scale) for place, unit in scores}
    return units or dict.fromkeys(range(len(heads)), (0.0, -1.0))


def stacked(heads: Sequence[Head], raw: Tensor) -> Tensor:
    """[B, H] what RL is paid, by head, from the heads' own outputs [B, H]."""
    return torch.stack([head.reward(column) for head, column in zip(heads, raw.unbind(1), strict=True)], 1)
