"""Dynamic sampling: prompts whose responses all scored the same teach nothing, and give way to other prompts.

Left out: keeping what was sampled beyond the size of a step for the next one.

Yu et al. 2025 (DAPO, arXiv 2503.14476), section 3.2, with a bound: a task that is never, or always, solved would be
sampled for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from palate.randomness import permutation
from palate.records import Prompt
from palate.rewards.mix import MixedScores
from palate.rollout.engine import Rollout, join
from palate.stages.reinforcement.watching import with_signal


class Generate(Protocol):
    """An engine with its settings filled in."""

    def __call__(self, prompts: Sequence[Prompt], /, *, key: tuple[int | str, ...]) -> Rollout:
        """K responses to each prompt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """A rollout of which some prompts have given way to others.

    Attributes:
        scores: [B] of it.
        scored: what the rewards said of the responses of each further round.
        replaced: how many times a prompt was replaced.
    """

    rollout: Rollout
    scores: Tensor
    scored: tuple[MixedScores, ...]
    replaced: int


def resampled(
    rollout: Rollout,
    scores: Tensor,
    prompts: Sequence[Prompt],
    generate: Generate,
    judge: Callable[[Rollout], tuple[Tensor, MixedScores]],
    *,
    most: int,
    order: tuple[int | str, ...],
    sampling: tuple[int | str, ...],
) -> Resampled:
    """The rollout with as many prompts as before, and as few without signal as ``most`` further rounds allow.

    Args:
        rollout: P prompts times K responses.
        scores: [B] of them.
        prompts: all there are; those that take a place are not in the rollout yet.
        generate, judge: what made the rollout, and its scores with what they were made of.
        most: rounds.
        order, sampling: keys of the step, of which prompts take a place and of what is drawn for them.
    """
    met, replaced, scored = {prompt.id for prompt in rollout.prompts}, 0, list[MixedScores]()
    for attempt in range(1, most + 1):
        teaches = with_signal(rollout, scores)  # [P]
        shuffled = permutation(len(prompts), *order, "resampled", attempt)
        others = [prompts[int(place)] for place in shuffled if prompts[int(place)].id not in met]
        others = others[: int((~teaches).sum())]
        if not others:
            break
        fresh = generate(others, key=(*sampling, attempt))
        places = (~teaches).nonzero()[: len(others), 0]
        kept = torch.ones_like(teaches).index_fill(0, places, False)
        rows = kept.repeat_interleave(len(scores) // len(kept)).nonzero()[:, 0]
        earned, mixed = judge(fresh)
        scores = torch.cat([scores[rows], earned])
        scored.append(mixed)
        rollout = join([rollout.select(rows), fresh]) if len(rows) else fresh
        met |= {prompt.id for prompt in others}
        replaced += len(others)
    return Resampled(rollout=rollout, scores=scores, scored=tuple(scored), replaced=replaced)
