"""Do the labelers agree: the ceiling of what a reward model can learn from them.

Two labelers are compared on every pair of responses that both judged for one prompt. The same verdict counts 1, a tie
against a preference one half, opposite preferences 0. People reach about 0.73 (InstructGPT; Stiennon et al. 2020).
The coefficients of ``coefficients.py`` say how much of that is beyond chance; intervals are bootstrapped by prompt.

For the coefficients a unit is a pair of responses in an order given by their hashes, so that neither the order on
screen nor in the file counts; the categories are "the first", "a tie" (if anyone ever said so) and "the second". The
interval alpha is that of the ratings from 1 to 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from palate.feedback.coefficients import fleiss_kappa, gwet_ac1, krippendorff_alpha, mean_cohen_kappa
from palate.intervals import Estimate, Floats, bootstrap, ratio_estimate
from palate.records import Ranking, content_id

Indices = NDArray[np.int64]
Unit = tuple[str, ...]  # prompt id, then the texts that are judged


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelerAgreement:
    """One labeler against all others.

    Attributes:
        num_prompts: prompts on which this labeler compared responses.
        num_comparisons: verdicts that could be held against another's.
        tie_share: how often two responses were called equal.
    """

    name: str
    num_prompts: int
    num_comparisons: int
    tie_share: float
    agreement: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far labelers agree; every estimate may be undefined.

    Attributes:
        percent: share of equal verdicts on pairs, a lone tie counting one half, as a fraction.
        low, high: its 95% interval.
        cohen: mean over pairs of labelers, weighted by what they share.
        alpha: nominal, of the verdicts.
        alpha_interval: of the ratings, undefined without any.
        tau_b: mean over two labelers' rankings of one prompt's responses.
        labelers: one entry each, by name.
        matrix: [L, L] percent agreement in the same order; None on the diagonal and where two never met.
        num_prompts: prompts on which at least two labelers met.
        num_comparisons: verdicts compared, two labelers and one pair of responses each.
        num_unnamed: rankings left out because they name no labeler.
        num_superseded: verdicts and ratings replaced by a later one of the same labeler.
        num_identical: pairs left out because the two texts are the same.
    """

    percent: float | None
    low: float | None
    high: float | None
    cohen: Estimate
    fleiss: Estimate
    alpha: Estimate
    alpha_interval: Estimate
    ac1: Estimate
    tau_b: Estimate
    labelers: tuple[LabelerAgreement, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    num_prompts: int
    num_comparisons: int
    num_unnamed: int
    num_superseded: int
    num_identical: int


@dataclass(frozen=True, slots=True)
class _Table:
    """What each labeler said of each unit: values [N, L] with NaN for nothing, and the prompt of each row, [N]."""

    values: Floats
    row_prompts: Indices
    num_prompts: int
    names: tuple[str, ...]

    def by_prompt(self, per_row: Floats) -> Floats:
        """[N] to [P]: sums over the rows of a prompt."""
        sums = np.bincount(self.row_prompts, weights=per_row, minlength=self.num_prompts)
        return sums.astype(np.float64)

    def meetings(self, one: int, other: int) -> Indices:
        """The rows that both labelers judged."""
        return np.flatnonzero(~np.isnan(self.values[:, one] + self.values[:, other]))


def agreement(rankings: Sequence[Ranking], *, seed: int = 0, resamples: int = 1000) -> Agreement:
    """All agreement statistics of rankings by named labelers; a later verdict of a labeler replaces the earlier one."""
    named = [ranking for ranking in rankings if ranking.labeler]
    verdicts, superseded, identical = _collect(_verdicts(named))
    ratings, superseded_ratings, _ = _collect(_ratings(named))
    judged, rated = _table(verdicts), _table(ratings)
    counts = np.stack([(judged.values == verdict).sum(axis=1) for verdict in _categories(judged.values)], axis=1)

    def by_row(statistic: Callable[[Floats], float | None], table: _Table = judged) -> Estimate:
        """Bootstrap a statistic of row weights by drawing prompts."""
        return bootstrap(lambda w: statistic(w[table.row_prompts]), table.num_prompts, seed=seed, resamples=resamples)

    def by_prompt(above: Floats, below: Floats) -> Estimate:
        met = below > 0
        return ratio_estimate(above[met], below[met], seed=seed, resamples=resamples)

    same, met = _pairwise(judged)
    percent = by_prompt(judged.by_prompt(same.sum(axis=1)), judged.by_prompt(met.sum(axis=1)))
    return Agreement(
        percent=percent.value,
        low=percent.low,
        high=percent.high,
        cohen=by_row(_cohen(judged)),
        fleiss=by_row(lambda w: fleiss_kappa(counts, w)),
        alpha=by_row(lambda w: krippendorff_alpha(judged.values, metric="nominal", weights=w)),
        alpha_interval=by_row(lambda w: krippendorff_alpha(rated.values, metric="interval", weights=w), rated),
        ac1=by_row(lambda w: gwet_ac1(counts, w)),
        tau_b=by_prompt(*_tau_b(judged)),
        labelers=tuple(
            LabelerAgreement(
                name=name,
                num_prompts=len(np.unique(judged.row_prompts[~np.isnan(said)])),
                num_comparisons=int(met[:, index].sum()),
                tie_share=float((said == 0).sum() / (~np.isnan(said)).sum()),
                agreement=by_prompt(judged.by_prompt(same[:, index]), judged.by_prompt(met[:, index])),
            )
            for index, (name, said) in enumerate(zip(judged.names, judged.values.T, strict=True))
        ),
        matrix=_matrix(judged),
        num_prompts=int((judged.by_prompt(met.sum(axis=1)) > 0).sum()),
        num_comparisons=int(met.sum()) // 2,
        num_unnamed=len(rankings) - len(named),
        num_superseded=superseded + superseded_ratings,
        num_identical=identical,
    )


def _verdicts(rankings: Sequence[Ranking]) -> Iterator[tuple[Unit, str, float]]:
    """Every pair of a ranking: -1 the first text is better, 0 a tie, 1 the second; a text is named by its hash."""
    for ranking in rankings:
        texts = [content_id(response.text) for response in ranking.responses]
        for (a, rank_a), (b, rank_b) in combinations(sorted(zip(texts, ranking.ranks, strict=True)), 2):
            yield (ranking.prompt.id, a, b), ranking.labeler, float(np.sign(rank_a - rank_b))


def _ratings(rankings: Sequence[Ranking]) -> Iterator[tuple[Unit, str, float]]:
    for ranking in rankings:
        for response, rating in zip(ranking.responses, ranking.ratings or (), strict=False):
            yield (ranking.prompt.id, response.text), ranking.labeler, rating


def _collect(judgements: Iterator[tuple[Unit, str, float]]) -> tuple[dict[Unit, dict[str, float]], int, int]:
    """Judgements by unit and labeler, how many were superseded, and how many compared a text with itself."""
    collected: dict[Unit, dict[str, float]] = {}
    superseded = identical = 0
    for unit, labeler, value in judgements:
        if len(set(unit)) < len(unit):
            identical += 1
            continue
        said = collected.setdefault(unit, {})
        superseded += labeler in said
        said[labeler] = value
    return collected, superseded, identical


def _table(judgements: Mapping[Unit, Mapping[str, float]]) -> _Table:
    """Sorted by content, so that nothing depends on the order of the log."""
    names = sorted({name for said in judgements.values() for name in said})
    prompts = {prompt: index for index, prompt in enumerate(sorted({unit[0] for unit in judgements}))}
    column = {name: index for index, name in enumerate(names)}
    values = np.full((len(judgements), len(names)), np.nan)
    units = sorted(judgements)
    for row, unit in enumerate(units):
        for name, value in judgements[unit].items():
            values[row, column[name]] = value
    rows = np.array([prompts[unit[0]] for unit in units], dtype=np.int64)
    return _Table(values, rows, len(prompts), tuple(names))


def _categories(values: Floats) -> tuple[float, ...]:
    """A tie is a category only if somebody used it; the two preferences always are."""
    return (-1.0, 0.0, 1.0) if (values == 0).any() else (-1.0, 1.0)


def _pairwise(table: _Table) -> tuple[Floats, Floats]:
    """Per row and labeler, [N, L]: the sum of agreements with the others, and how many others there were."""
    same, met = np.zeros_like(table.values), np.zeros_like(table.values)
    for one, other in combinations(range(len(table.names)), 2):
        rows = table.meetings(one, other)
        agreeing = 1 - np.abs(table.values[rows, one] - table.values[rows, other]) / 2
        for labeler in (one, other):
            same[rows, labeler] += agreeing
            met[rows, labeler] += 1
    return same, met


def _matrix(table: _Table) -> tuple[tuple[float | None, ...], ...]:
    size = len(table.names)
    matrix: list[list[float | None]] = [[None] * size for _ in range(size)]
    for one, other in combinations(range(size), 2):
        rows = table.meetings(one, other)
        if len(rows):
            differences = np.abs(table.values[rows, one] - table.values[rows, other])
            matrix[one][other] = matrix[other][one] = float(1 - differences.mean() / 2)
    return tuple(tuple(row) for row in matrix)


def _cohen(table: _Table) -> Callable[[Floats], float | None]:
    """The mean kappa as a function of row weights, from all meetings laid out once."""
    pairs = list(combinations(range(len(table.names)), 2))
    rows = [table.meetings(one, other) for one, other in pairs]
    cells = [
        9 * index + (3 * (table.values[met, one] + 1) + table.values[met, other] + 1).astype(np.int64)
        for index, ((one, other), met) in enumerate(zip(pairs, rows, strict=True))
    ]
    all_rows, all_cells = (np.concatenate([*parts, np.empty(0, np.int64)]) for parts in (rows, cells))

    def kappa(weights: Floats) -> float | None:
        counts = np.bincount(all_cells, weights=weights[all_rows], minlength=9 * len(pairs))
        return mean_cohen_kappa(counts.reshape(-1, 3, 3).astype(np.float64))

    return kappa


def _tau_b(table: _Table) -> tuple[Floats, Floats]:
    """Per prompt: the sum of tau-b over pairs of labelers, and over how many it is defined.

    Verdicts are the signs of rank differences, and tau-b is their correlation about zero.
    """
    total, defined = np.zeros(table.num_prompts), np.zeros(table.num_prompts)
    for one, other in combinations(range(len(table.names)), 2):
        x, y = table.values[:, one], table.values[:, other]
        met = ~np.isnan(x + y)
        x, y = np.where(met, x, 0), np.where(met, y, 0)
        scale = np.sqrt(table.by_prompt(x**2) * table.by_prompt(y**2))
        total += np.divide(table.by_prompt(x * y), scale, out=np.zeros_like(scale), where=scale > 0)
        defined += scale > 0
    return total, defined
