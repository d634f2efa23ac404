"""How much of a rollout is going to be learned, told before there is one."""

from __future__ import annotations

import torch

from palate.lm.batch import Sequences
from palate.stages.reinforcement.step import minibatches


def minibatches_of(sequences: Sequences, count: int, *, each: int, key: tuple[int | str, ...]) -> list[Sequences]:
    """Minibatches of ``each`` responses to every prompt, whichever: all are taken to be as long as they may.

    Args:
        sequences: those of a prompt side by side, as many to each.
    """
    num_responses = len(sequences) // len(sequences.group_ids.unique())
    rows = torch.arange(len(sequences))
    return minibatches(sequences.select(rows[rows % num_responses < each]), count, key=key)
