"""Does a number tell two kinds of cases apart: flagged responses from others, pairs judged wrongly from the rest?

The area under the receiver operating characteristic is the probability that a case of the one kind has a larger number
than one of the other kind, a tie counting half (Hanley and McNeil 1982): 1/2 is a coin. Cases of one prompt resemble
each other, so its interval is by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from palate.intervals import Estimate, Floats, bootstrap, ratio_estimate


def area_under_curve(scores: ArrayLike, labels: ArrayLike, prompt_ids: Sequence[str], *, seed: int) -> Estimate:
    """P(a labelled case scores above another), by prompt; undefined where all cases or none are labelled.

    Args:
        scores: [N].
        labels: [N], 1 or 0.
        prompt_ids: [N].
    """
    label = np.asarray(labels, dtype=np.float64)
    level = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)[1]
    prompt = np.unique(np.asarray(prompt_ids, dtype=np.str_), return_inverse=True)[1]
    num_levels, num_prompts = (int(each.max()) + 1 if len(each) else 0 for each in (level, prompt))

    def statistic(times: Floats) -> float | None:
        yes, no = (
            np.bincount(level, weights=times[prompt] * side, minlength=num_levels) for side in (label, 1 - label)
        )
        pairs = float(yes.sum() * no.sum())
        below = no.cumsum() - no / 2  # of equal ones half
        return float(yes @ below) / pairs if pairs else None

    return bootstrap(statistic, num_prompts, seed=seed, least=0.0, most=1.0)


def by_quarter(
    scores: ArrayLike, outcomes: ArrayLike, prompt_ids: Sequence[str], *, seed: int
) -> list[tuple[float, float, Estimate]]:
    """The mean outcome in each quarter of the cases by score, the lowest first: its lowest and highest score, and that.

    Fewer parts where there are fewer cases.
    """
    score, outcome = np.asarray(scores, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    prompts = np.unique(np.asarray(prompt_ids, dtype=np.str_), return_inverse=True)[1]
    parts = [part for part in np.array_split(np.argsort(score, kind="stable"), 4) if len(part)]
    return [
        (
            float(score[part].min()),
            float(score[part].max()),
            ratio_estimate(
                np.bincount(prompts[part], weights=outcome[part]), np.bincount(prompts[part]), seed=seed, share=True
            ),
        )
        for part in parts
    ]
