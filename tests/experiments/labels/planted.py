"""Judgements whose truth is known: what responses are like, what people want, how carefully they look."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from palate.experiments.labels.judgement_table import Judgements
from palate.experiments.labels.linear import Indices
from palate.intervals import Floats
from palate.randomness import uniforms


def judged(
    x: Floats,
    taste: Floats,
    *,
    group: Indices,
    labeler: Indices | None = None,
    skill: Floats | None = None,
    item: Indices | None = None,
    seed: int = 0,
) -> Judgements:
    """One judgement for each row of x, the difference of two responses that appear nowhere else.

    Args:
        x: [J, D].
        taste: [D], or [J, D] where it depends on who judges.
        group: [J] the prompt.
        skill: [J] inverse temperature; by default nobody errs.
        item: [J]; each its own, where nothing is said.
    """
    number = len(x)
    item = np.arange(number) if item is None else item
    _, first_seen, place = np.unique(item, return_index=True, return_inverse=True)
    features = np.concatenate([x[first_seen] / 2, -x[first_seen] / 2])
    margin = (x * taste).sum(1)
    chance = (margin > 0).astype(float) if skill is None else expit(skill * margin)
    people = np.zeros(number, dtype=np.int64) if labeler is None else labeler
    return Judgements(
        features=features,
        words=np.arange(len(features), dtype=np.float64),
        prompt=group,
        item=place,
        labeler=people,
        group=group,
        groups=tuple(f"prompt {each}" for each in range(int(group.max()) + 1)),
        labelers=tuple(f"labeler {each:02d}" for each in range(int(people.max()) + 1)),
        judgement=np.arange(number),
        first=place,
        second=place + len(first_seen),
        outcome=(uniforms(number, seed, "planted") < chance).astype(float),
        weight=np.ones(number),
    )
