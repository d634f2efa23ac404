"""Dynamic sampling: prompts whose responses all scored the same teach nothing, and give way to other prompts.

Left out: keeping what was sampled beyond the size of a step for the next one.

Yu et al. 2025 (DAPO, arXiv 2503.14476), section 3.2, with a bound: a task that is never, or always, solved would be
sampled for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from palate.randomness import permutation
from palate.records import Prompt
from palate.rollout.engine import Rollout, join
from palate.stages.reinforcement.watching import with_signal


class Generate(Protocol):
    """An engine with its settings filled in."""

    def __call__(self, prompts: Sequence[Prompt], /, *, key: tuple[int | str, ...]) -> Rollout:
        """K responses to each prompt."""
        ...


def resampled(
    rollout: Rollout,
    scores: Tensor,
    prompts: Sequence[Prompt],
    generate: Generate,
    judge: Callable[[Rollout], Tensor],
    *,
    most: int,
    key: tuple[int | str, ...],
) -> tuple[Rollout, Tensor, int]:
    """The rollout with as many prompts as before, and as few without signal as ``most`` further rounds allow.

    Args:
        rollout: P prompts times K responses.
        scores: [B] of them.
        prompts: all there are; those that take a place are not in the rollout yet.
        generate, judge: what made the rollout, and its scores.
        most: rounds.
        key: of the step.

    Returns:
        The rollout, its scores [B], and how many times a prompt was replaced.
    """
    met, replaced = {prompt.id for prompt in rollout.prompts}, 0
    for attempt in range(1, most + 1):
        teaches = with_signal(rollout, scores)  # [P]
        order = permutation(len(prompts), *key, "resampled", attempt)
        others = [prompts[int(place)] for place in order if prompts[int(place)].id not in met]
        others = others[: int((~teaches).sum())]
        if not others:
            break
        fresh = generate(others, key=(*key, attempt))
        places = (~teaches).nonzero()[: len(others), 0]
        kept = torch.ones_like(teaches).index_fill(0, places, False)
        rows = kept.repeat_interleave(len(scores) // len(kept)).nonzero()[:, 0]
        scores = torch.cat([scores[rows], judge(fresh)])
        rollout = join([rollout.select(rows), fresh]) if len(rows) else fresh
        met |= {prompt.id for prompt in others}
        replaced += len(others)
    return rollout, scores, replaced
