"""How many labels does a reward model need, and which first? Accuracy against labels, by what is asked next.

A quarter of the prompts (or of a tag's values) is held out; of everything else one judgement of each item can be had.
Some are drawn by lot, a reward is learned, each strategy of `selection.py` chooses the next ones, and so on: the labels
grow by half each time. All strategies of one seed begin with the same labels and are measured on the same held-out
judgements, so what is reported is their difference to random, paired by seed.

    accuracy     of pairs that people ordered, held-out prompts
    area         mean accuracy over the logarithm of the number of labels
    labels       how many a strategy needs for the accuracy that random has with all labels of the budget

Rewards are linear, on a frozen trunk (`rewards/features.py`): a hint of what a reward model whose layers learn would
say, at one thousandth of the price. Seeds share the data, so an interval over seeds tells how much the result hangs on
what is held out and drawn, not how it would be for other people.

Run it: `palate choose recipes/reward.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from palate.errors import DataError
from palate.experiments.labels.judgement_table import Judgements
from palate.experiments.labels.linear import Indices
from palate.experiments.labels.selection import CONTROLS, STRATEGIES, Pool, State, Strategy
from palate.intervals import Estimate, Floats, bootstrap, ratio_estimate
from palate.randomness import permutation

HeldOut = Literal["prompts", "items"]
"""What rewards are measured on: prompts that no label is about, or other items about the same prompts."""
DIMENSIONS = 128
"""Of the features that a reward is learned on."""
HELD_OUT = 0.25
"""Share of the groups."""
START = 16
"""Labels drawn by lot before anything is chosen."""
MOST = 512
"""Labels at the end, unless half the pool is fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What one strategy reached with one seed.

    Attributes:
        labels: [S] how many were known.
        accuracy: [S] on held-out prompts.
        everything: accuracy with all labels of the pool.
        longer: how often the longer response of a held-out pair is the preferred one.
    """

    strategy: str
    seed: int
    labels: tuple[int, ...]
    accuracy: tuple[float, ...]
    everything: float
    longer: float

    @property
    def area(self) -> float:
        """Mean accuracy over the logarithm of labels."""
        x = np.log(self.labels)
        return float(np.trapezoid(self.accuracy, x) / (x[-1] - x[0]))


def sizes(pool: int, *, start: int = START, most: int = MOST) -> tuple[int, ...]:
    """Numbers of labels: half as many again each time, to the budget or half of the pool.

    Raises:
        DataError: the pool has not twice as many items as the start.
    """
    end = min(most, pool // 2)
    if end < start:
        raise DataError(f"{pool} items to choose from are too few to compare ways of choosing {start} and more of them")
    steps = round(np.log(end / start) / np.log(1.5))
    return tuple(dict.fromkeys(round(start * (end / start) ** (step / max(steps, 1))) for step in range(steps + 1)))


def curves(
    judgements: Judgements,
    seed: int,
    strategies: Mapping[str, Strategy] | None = None,
    *,
    held_out: HeldOut = "prompts",
    most: int = MOST,
) -> list[Curve]:
    """One for each strategy, from the same beginning."""
    pool, everything, longer = split(judgements, seed, held_out=held_out)
    steps = sizes(pool.num_items, most=most)
    start = permutation(pool.num_items, seed, "choose", "start")[: steps[0]]
    found = []
    for name, strategy in (strategies or {**STRATEGIES, **CONTROLS}).items():
        labelled, accuracy = np.sort(start), []
        for size in steps:
            if size > len(labelled):
                state = State(pool=pool, labelled=labelled, count=size - len(labelled), key=(seed, "choose"))
                labelled = np.sort(np.concatenate([labelled, strategy(state)]))
            accuracy.append(accuracy_of(pool, labelled))
        found.append(
            Curve(
                strategy=name,
                seed=seed,
                labels=steps,
                accuracy=tuple(accuracy),
                everything=everything,
                longer=longer,
            )
        )
    return found


def split(judgements: Judgements, seed: int, *, held_out: HeldOut = "prompts") -> tuple[Pool, float, float]:
    """The pool of a seed, the accuracy with all its labels, and that of preferring the longer response.

    Raises:
        DataError: fewer than two groups of prompts.
    """
    unit = judgements.group if held_out == "prompts" else judgements.item
    number = int(unit.max()) + 1
    if number < 2:
        raise DataError("all judgements are about one prompt, or one value of holdout.tag: nothing can be held out")
    kept_aside = permutation(number, seed, "choose", "held out")[: max(1, round(HELD_OUT * number))]
    is_held_out = np.isin(unit, kept_aside)
    asked = one_of_each(judgements, np.flatnonzero(~is_held_out), seed)
    pairs = judgements.pairs_of(asked)
    place = np.full(len(judgements.item), -1)
    place[asked] = np.arange(len(asked))
    tested = judgements.pairs_of(np.flatnonzero(is_held_out))
    tested = tested[judgements.outcome[tested] != 0.5]
    if not len(tested):
        raise DataError("nobody preferred anything among what is held out")
    x = judgements.differences(judgements.rows_of(pairs), DIMENSIONS)
    pool = Pool(
        x=x[pairs],
        outcome=judgements.outcome[pairs],
        weight=judgements.weight[pairs],
        item=place[judgements.judgement[pairs]],
        held_out_x=x[tested],
        held_out_outcome=judgements.outcome[tested],
    )
    words = judgements.words[judgements.first[tested]] - judgements.words[judgements.second[tested]]
    everything = accuracy_of(pool, np.arange(pool.num_items))
    return pool, everything, share_right(words, judgements.outcome[tested])


def one_of_each(judgements: Judgements, among: Indices, seed: int) -> Indices:
    """One judgement of every item, by lot: what somebody would have said who had been asked."""
    drawn = among[permutation(len(among), seed, "choose", "judgement")]
    _, place = np.unique(judgements.item[drawn], return_index=True)
    return np.asarray(np.sort(drawn[place]))


def accuracy_of(pool: Pool, labelled: Indices) -> float:
    """Of the reward that is learned from some items, on the held-out pairs."""
    return share_right(pool.held_out_x @ pool.learned(labelled), pool.held_out_outcome)


def share_right(margin: Floats, outcome: Floats) -> float:
    """How often the sign of a margin is that of the preference; a margin of 0 is half right."""
    return float(np.mean(0.5 + 0.5 * np.sign(margin) * np.sign(outcome - 0.5)))


# What follows from the curves of all seeds.


def named(found: Iterable[Curve]) -> dict[str, list[Curve]]:
    """By strategy, each in the order of its seeds."""
    by: dict[str, list[Curve]] = {}
    for curve in sorted(found, key=lambda curve: curve.seed):
        by.setdefault(curve.strategy, []).append(curve)
    return by


def area_gained(of: Sequence[Curve], than: Sequence[Curve]) -> Estimate:
    """Difference of areas, paired by seed."""
    differences = [one.area - other.area for one, other in zip(of, than, strict=True)]
    return ratio_estimate(differences, np.ones(len(differences)), seed=0)


def labels_needed(of: Sequence[Curve], than: Sequence[Curve]) -> Estimate:
    """How many labels do for the accuracy that ``than`` has in the end, as a share of the labels it has; by seed.

    On mean curves, the first crossing between two sizes in the logarithm. Above 1: never, as far as was looked.
    """
    x = np.log(of[0].labels)
    ours, theirs = (np.array([curve.accuracy for curve in curves]) for curves in (of, than))

    def statistic(weights: Floats) -> float | None:
        mean, goal = weights @ ours / weights.sum(), float(weights @ theirs[:, -1] / weights.sum())
        there = np.flatnonzero(mean >= goal)
        if not len(there):
            return None
        place = int(there[0])
        if place == 0:
            return float(np.exp(x[0] - x[-1]))
        part = (goal - mean[place - 1]) / (mean[place] - mean[place - 1])
        return float(np.exp(x[place - 1] + part * (x[place] - x[place - 1]) - x[-1]))

    return bootstrap(statistic, len(of), seed=0, least=0.0)
