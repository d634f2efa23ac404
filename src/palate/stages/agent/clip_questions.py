"""A round of questions: pairs of clips are put to a teacher, and what it says is kept.

What a teacher is stands in `simulated/clip_teachers.py`; here the recipe's words become one of them. People are asked
by `clip_pages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from palate.randomness import uniforms
from palate.recipe import Labels
from palate.simulated import clip_teachers
from palate.stages.agent.clips import Pairs, RecentClips, most_disputed

RANKS = torch.tensor([[1, 2], [1, 1], [2, 1]])
"""By verdict, of all but a skip: the ranks of the two clips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What was said of P pairs; several people may have spoken of one, and nobody of another.

    Attributes:
        rows: [Q] of the pair.
        ranks: [Q, 2], 1 is better; equal ones are a tie.
        weights: [Q]; those of one pair add up to 1.
    """

    rows: Tensor
    ranks: Tensor
    weights: Tensor


def chosen_pairs(
    clips: RecentClips, returns: Callable[[Pairs], Tensor] | None, *, count: int, candidates: int, seed: int, step: int
) -> Pairs:
    """The pairs of a round.

    Args:
        clips: that there are.
        returns: [P, 2, M] what the members of the ensemble give the clips of some pairs; pairs are then chosen by their
            disagreement. None: by lot.
        count: pairs of the round.
        candidates: pairs that are looked at for each that is chosen.
    """
    drawn = clips.draw(count if returns is None else count * candidates, seed, "agent", "pairs", step)
    return drawn if returns is None else drawn.select(most_disputed(returns(drawn), count))


def simulated_teacher(labels: Labels, returns: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The one that the recipe names, a function of the true rewards [P, L] of the clips on each side.

    Args:
        returns: [C] of recent clips, by which what is poor, and what is nearly equal, is told.
    """
    threshold = clip_teachers.adapted_threshold(returns, labels.threshold)
    known: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "perfect": clip_teachers.perfect,
        "mistaken": partial(clip_teachers.mistaken, mistake_rate=labels.mistake_rate),
        "noisy": partial(clip_teachers.noisy, rationality=labels.rationality),
        "skipping": partial(clip_teachers.skipping, least=float(returns.min()) + threshold),
        "equal": partial(clip_teachers.equal, within=threshold),
        "myopic": partial(clip_teachers.myopic, discount=labels.discount),
        "random": clip_teachers.at_random,
    }
    return known[labels.teacher]


def simulated_answers(labels: Labels, pairs: Pairs, clips: RecentClips, *, seed: int, step: int) -> Answers:
    """What a simulated teacher says of these pairs; of those that it skips nothing."""
    teacher = simulated_teacher(labels, clips.returns())
    lots = torch.from_numpy(uniforms(len(pairs), seed, "agent", "answers", step))
    verdicts = clip_teachers.answers(teacher(pairs.rewards[:, 0], pairs.rewards[:, 1]), lots)
    rows = (verdicts != clip_teachers.SKIP).nonzero()[:, 0]
    return Answers(rows=rows, ranks=RANKS[verdicts[rows]], weights=torch.ones(len(rows)))
