"""How many pairs of a kind may stay, where they are not to be more than a share of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeVar

T = TypeVar("T")


def over_share(kind: Sequence[T], num_others: int, most: float, *, key: Callable[[T], str]) -> list[T]:
    """Those of a kind that make its share larger than `most`; which ones is decided by their keys, hashes of theirs.

    Beside S others the share L / (L + S) is at most m for L <= m S / (1 - m).
    """
    if most == 1:
        return []
    allowed = Fraction(str(most))
    return sorted(kind, key=key)[math.floor(allowed * num_others / (1 - allowed)) :]
