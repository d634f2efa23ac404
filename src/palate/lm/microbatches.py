"""A batch in microbatches: as large as there is memory for, and as many as there are processes to compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from palate.run.world import world

if TYPE_CHECKING:
    from palate.lm.batch import Sequences

    SequencesT = TypeVar("SequencesT", bound=Sequences)


def divided(sequences: Sequences, max_tokens: int, *, whole_groups: bool = False, among: int = 1) -> list[Tensor]:
    """The places [N] of each microbatch in the batch; sequences of one group stand side by side.

    A microbatch computes at most ``max_tokens``, or one unit if that alone is more: a sequence, or with
    ``whole_groups`` a group. A group that is divided has its prompt computed in each of its microbatches.

    Args:
        among: processes. There are then a multiple of so many microbatches, if there are as many units, and none is
            larger than it has to be for that.
    """
    filled = _Filled(sequences, whole_groups)
    found = filled.up_to(max_tokens)
    count = -(-len(found) // among) * among
    low, high = 0, max_tokens  # by halves the smallest limit under which there are no more than that
    while among > 1 and high - low > 1:
        middle = (low + high) // 2
        parts = filled.up_to(middle)
        if len(parts) > count:
            low = middle
        else:
            high, found = middle, parts
    return [torch.tensor(part) for part in found]


class _Filled:
    """Microbatches that are filled one after the other."""

    def __init__(self, sequences: Sequences, whole_groups: bool) -> None:
        self.groups, self.prompts = sequences.group_ids.tolist(), sequences.prompt_lengths.tolist()
        self.lengths = sequences.lengths.tolist()
        rows = sorted(range(len(sequences)), key=lambda row: self.groups[row])
        by_group = [list(members) for _, members in groupby(rows, key=lambda row: self.groups[row])]
        self.units = by_group if whole_groups else [[row] for group in by_group for row in group]

    def up_to(self, max_tokens: int) -> list[list[int]]:
        """Of at most so many tokens, or of one unit."""
        parts: list[list[int]] = []
        taken: list[int] = []
        used = 0
        for unit in self.units:
            prompt = self.prompts[unit[0]]
            cost = sum(self.lengths[row] - self.prompts[row] for row in unit)
            shared = bool(taken) and self.groups[taken[-1]] == self.groups[unit[0]]
            cost += 0 if shared else prompt
            if taken and used + cost > max_tokens:
                parts.append(taken)
                cost += prompt if shared else 0
                taken, used = [], 0
            taken, used = taken + unit, used + cost
        return [*parts, taken]


def in_parts(
    sequences: Sequences, max_tokens: int, compute: Callable[[Sequences], Tensor], what: str
) -> Iterator[tuple[Sequences, Tensor]]:
    """Every microbatch and what was computed of it, without a gradient, by whichever process.

    Args:
        what: is computed, for whoever has to be told that a process did not come.
    """
    parts = evened(sequences.divided(max_tokens))
    for start in range(0, len(parts), world().size):
        round_ = parts[start : start + world().size]
        with torch.no_grad():
            own = [compute(part) for part in world().mine(round_)]
        computed = zip(round_, world().whole(own, what), strict=True)
        yield from ((part, numbers) for part, numbers in computed if len(part))


def evened(parts: list[SequencesT]) -> list[SequencesT]:
    """The parts, and empty ones behind them: as many for each process.

    A pass through weights that are sharded is a meeting of all processes, and who has nothing to do comes all the same.
    """
    nothing = torch.tensor([], dtype=torch.long)
    return parts + [parts[0].select(nothing)] * (-len(parts) % world().size)
