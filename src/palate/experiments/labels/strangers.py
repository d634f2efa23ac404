"""Whom do labels speak for: a reward's accuracy on labelers it learned from, and on labelers it never met.

Labelers are dealt into folds, and so are the prompts (or the items). For every fold of the one and of the other a
reward learns from the rest of both. So each judgement is foretold without what it is about having been seen: once by a
reward that never met its labeler, and otherwise by rewards that did, which learned from as many judgements. The same
judgements are compared, paired by labeler.

    plain       every judgement counts alike
    weighted    by its labeler's skill, as `labeler_weights` of a recipe; skills are estimated from what is learned from
    majority    one verdict of each item, that of most labelers; ties and equal votes are left out

And without any reward: what do the others' votes on the same item foretell of a labeler who is held out?

Rewards are linear, on a frozen trunk (`rewards/features.py`). Ouyang et al. 2022, section 3.5: 72.4 and 69.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palate.errors import DataError
from palate.experiments.labels.judgement_table import Judgements
from palate.experiments.labels.label_budget import DIMENSIONS, HeldOut
from palate.experiments.labels.linear import Indices, fit
from palate.experiments.labels.selection import RIDGE
from palate.feedback.statistics.aggregate import Comparisons
from palate.feedback.statistics.bradley_terry import fit_labelers, fit_qualities, weights_of
from palate.feedback.statistics.marginal import Parameters, Priors
from palate.intervals import Estimate, Floats, bootstrap
from palate.randomness import permutation


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How P ordered pairs were foretold with one seed; each number is 1 for right, 0 for wrong, one half for neither.

    Attributes:
        pair: [P] places among the pairs of the judgements.
        labeler: [P].
        seen: by method [P], mean of the rewards that learned from the labeler.
        unseen: by method [P], of the reward that never met the labeler.
        votes: by method [P], of the others' votes on the same item; NaN where nobody else judged it.
    """

    pair: Indices
    labeler: Indices
    seen: Mapping[str, Floats]
    unseen: Mapping[str, Floats]
    votes: Mapping[str, Floats]


def foretell(
    judgements: Judgements,
    seed: int,
    *,
    folds: int,
    held_out: HeldOut = "prompts",
    methods: Sequence[str] = ("plain", "weighted", "majority"),
    votes: bool = True,
) -> Told:
    """Every ordered pair, by rewards that have not seen what it is about.

    Args:
        methods: of learning, by their names in `METHODS`.
        votes: also by the others' votes, without a reward.

    Raises:
        DataError: fewer labelers, or prompts, than folds.
    """
    unit = judgements.group if held_out == "prompts" else judgements.item
    for name, number in (("labelers", len(judgements.labelers)), (held_out, int(unit.max()) + 1)):
        if number < folds:
            raise DataError(f"{number} {name} cannot be dealt into {folds} folds: lower --folds, or collect more")
    of_labeler = dealt(len(judgements.labelers), folds, seed, "labelers")[judgements.labeler][judgements.judgement]
    of_unit = dealt(int(unit.max()) + 1, folds, seed, held_out)[unit][judgements.judgement]
    pair = np.flatnonzero(judgements.outcome != 0.5)
    seen = {method: np.zeros(len(pair)) for method in methods}
    unseen = {method: np.zeros(len(pair)) for method in methods}
    for about in range(folds):
        x = judgements.differences(judgements.rows_of(np.flatnonzero(of_unit != about)), DIMENSIONS)
        tested = of_unit[pair] == about
        for fold in range(folds):
            learned = np.flatnonzero((of_unit != about) & (of_labeler != fold))
            is_new = of_labeler[pair] == fold
            for method in methods:
                head = METHODS[method](judgements, x, learned)
                right = is_right(x[pair] @ head, judgements.outcome[pair])
                unseen[method] += right * (tested & is_new)
                seen[method] += right * (tested & ~is_new) / (folds - 1)
    return Told(
        pair=pair,
        labeler=judgements.labeler[judgements.judgement[pair]],
        seen=seen,
        unseen=unseen,
        votes=foretold_by_votes(judgements, of_labeler, pair) if votes else {},
    )


def dealt(number: int, folds: int, seed: int, what: str) -> Indices:
    """[N] in which fold each is: folds of like size, by lot."""
    order = permutation(number, seed, "labelers", "folds", what)
    fold = np.empty(number, dtype=np.int64)
    fold[order] = np.arange(number) % folds
    return fold


def plain(judgements: Judgements, x: Floats, pairs: Indices) -> Floats:
    """[D] the reward that is learned from some pairs as they are."""
    return fit(x[pairs], judgements.outcome[pairs], weight=judgements.weight[pairs], ridge=RIDGE)


def weighted(judgements: Judgements, x: Floats, pairs: Indices) -> Floats:
    """The same with each labeler's skill for a weight."""
    skills = skill_weights(judgements, pairs)[judgements.labeler[judgements.judgement[pairs]]]
    return fit(x[pairs], judgements.outcome[pairs], weight=judgements.weight[pairs] * skills, ridge=RIDGE)


def by_majority(judgements: Judgements, x: Floats, pairs: Indices) -> Floats:
    """That from one verdict for every two responses, where there is a majority."""
    first, verdict = majority_of(judgements, pairs, np.ones(len(pairs)))
    voted = first[verdict != 0]
    return fit(x[voted], (1 + verdict[verdict != 0]) / 2, weight=judgements.weight[voted], ridge=RIDGE)


METHODS: Mapping[str, Callable[[Judgements, Floats, Indices], Floats]] = {
    "plain": plain,
    "weighted": weighted,
    "majority": by_majority,
}


def majority_of(judgements: Judgements, pairs: Indices, weight: Floats) -> tuple[Indices, Floats]:
    """A pair for every two responses that were compared, and the verdict: 1 for its first, -1, or 0 for equal votes."""
    number = _same(judgements)[pairs]
    votes = np.bincount(number, weights=weight * (2 * judgements.outcome[pairs] - 1))
    among, first = np.unique(number, return_index=True)
    balance = votes[among]
    return pairs[first], np.where(np.abs(balance) > 1e-9, np.sign(balance), 0.0)


def skill_weights(judgements: Judgements, pairs: Indices) -> Floats:
    """[L] of every labeler; 1 of those of whom there is nothing among the pairs. Their mean over the others is 1."""
    table, known = table_of(judgements, pairs)
    skills = Parameters.unpack(fit_labelers(table, Priors()), table).skill
    weights = np.ones(len(judgements.labelers))
    weights[known] = weights_of(skills)
    return weights


def table_of(judgements: Judgements, pairs: Indices) -> tuple[Comparisons, Indices]:
    """Some pairs as verdicts that a Bradley-Terry model is fitted to, and which labelers are among them."""
    number = _same(judgements)[pairs]
    pairs = pairs[np.argsort(number, kind="stable")]
    _, first, pair = np.unique(_same(judgements)[pairs], return_index=True, return_inverse=True)
    known, labeler = np.unique(judgements.labeler[judgements.judgement[pairs]], return_inverse=True)
    num_responses = (1 + np.sqrt(1 + 8 / judgements.weight[pairs])) / 2
    table = Comparisons(
        prompts={},
        responses=tuple(("", str(row)) for row in range(len(judgements.features))),
        pairs=np.stack([judgements.first[pairs[first]], judgements.second[pairs[first]]], axis=1),
        labelers=tuple(judgements.labelers[name] for name in known.tolist()),
        pair=pair,
        labeler=labeler,
        verdict=2 * judgements.outcome[pairs] - 1,
        lead=np.zeros(len(pairs)),
        weight=2 / num_responses,
        has_order=False,
        sources=frozenset(),
        num_unnamed=0,
        num_superseded=0,
    )
    return table, known


def foretold_by_votes(judgements: Judgements, of_labeler: Indices, pair: Indices) -> dict[str, Floats]:
    """[P] by majority, by skill-weighted majority and by a Bradley-Terry model of the votes of other folds."""
    same = _same(judgements)
    found = {method: np.full(len(pair), np.nan) for method in ("majority", "weighted majority", "Bradley-Terry")}
    for fold in range(int(of_labeler.max()) + 1):
        others = np.flatnonzero(of_labeler != fold)
        tested = np.flatnonzero((of_labeler[pair] == fold) & np.isin(same[pair], same[others]))
        outcome = judgements.outcome[pair[tested]]
        table, known = table_of(judgements, others)
        theta = Parameters.unpack(fit_labelers(table, Priors()), table)
        weights = np.ones(len(judgements.labelers))
        weights[known] = weights_of(theta.skill)
        labeler = judgements.labeler[judgements.judgement[others]]
        for method, weight in (("majority", np.ones(len(others))), ("weighted majority", weights[labeler])):
            verdict = np.zeros(int(same.max()) + 1)
            voted, said = majority_of(judgements, others, weight)
            verdict[same[voted]] = said
            found[method][tested] = is_right(verdict[same[pair[tested]]], outcome)
        quality = fit_qualities(table, theta)
        margin = quality[judgements.first[pair[tested]]] - quality[judgements.second[pair[tested]]]
        found["Bradley-Terry"][tested] = is_right(margin, outcome)
    return found


def is_right(margin: Floats, outcome: Floats) -> Floats:
    """[P] 1 where the sign of the margin is that of the preference, one half where it is 0."""
    return np.asarray(0.5 + 0.5 * np.sign(margin) * np.sign(outcome - 0.5))


def _same(judgements: Judgements) -> Indices:
    """[P] a number for every two responses: the same for all pairs of them."""
    both = judgements.first * len(judgements.features) + judgements.second
    number: Indices = np.unique(both, return_inverse=True)[1]
    return number


# Figures over seeds and labelers.


def by_labeler(told: Sequence[Told], values: Sequence[Floats], than: Sequence[Floats] | None = None) -> Estimate:
    """Mean of [P] numbers of several seeds, or of differences between two such; its interval by labeler.

    NaN is left out. Every seed foretells the same judgements, so a labeler counts as often as they judged.
    """
    above = values if than is None else [one - other for one, other in zip(values, than, strict=True)]
    size = max(int(each.labeler.max()) for each in told) + 1
    sums, counts = np.zeros(size), np.zeros(size)
    for each, numbers in zip(told, above, strict=True):
        known = ~np.isnan(numbers)
        sums += np.bincount(each.labeler[known], weights=numbers[known], minlength=size)
        counts += np.bincount(each.labeler[known], minlength=size)
    return _ratio(sums[counts > 0], counts[counts > 0], share=than is None)


def _ratio(sums: Floats, counts: Floats, *, share: bool) -> Estimate:
    def statistic(weights: Floats) -> float | None:
        below = float(weights @ counts)
        return float(weights @ sums) / below if below else None

    return bootstrap(statistic, len(sums), seed=0, share=share)


def others_agree(judgements: Judgements) -> Estimate:
    """How often two labelers say the same of two responses, where both preferred one; its interval by labeler.

    A labeler's share is over all others they met; so every meeting counts once for either.
    """
    decided = np.flatnonzero(judgements.outcome != 0.5)
    same, labeler = _same(judgements)[decided], judgements.labeler[judgements.judgement[decided]]
    first = np.bincount(same, weights=judgements.outcome[decided])[same]
    met = np.bincount(same)[same] - 1.0
    agreeing = np.where(judgements.outcome[decided] == 1, first - 1, met - first)
    sums = np.bincount(labeler, weights=agreeing).astype(np.float64)
    counts = np.bincount(labeler, weights=met).astype(np.float64)
    return _ratio(sums[counts > 0], counts[counts > 0], share=True)
