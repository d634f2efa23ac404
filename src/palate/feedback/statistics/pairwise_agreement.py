"""Do the labelers agree: the ceiling of what a reward model can learn from them.

Two labelers are compared on every pair of responses that both judged for one prompt. The same verdict counts 1, a tie
against a preference one half, opposite preferences 0. People reach about 0.73 (InstructGPT; Stiennon et al. 2020).
The coefficients of ``coefficients.py`` say how much of that is beyond chance; intervals are by prompt.

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

from palate.feedback.statistics.coefficients import fleiss_kappa, gwet_ac1, krippendorff_alpha, mean_cohen_kappa
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
        between: percent agreement of every two labelers who met, their names in alphabetical order.
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
    between: Mapping[tuple[str, str], float]
    num_prompts: int
    num_comparisons: int
    num_unnamed: int
    num_superseded: int
    num_identical: int

    def matrix(self, names: Sequence[str]) -> list[list[float | None]]:
        """[L, L] percent agreement of these labelers; None on the diagonal and where two never met."""
        return [[self.between.get((min(a, b), max(a, b))) for b in names] for a in names]


@dataclass(frozen=True, slots=True)
class _Table:
    """What was said of N units by at most R labelers each.

    Attributes:
        values: [N, R], NaN where fewer labelers spoke.
        labelers: [N, R], their indices in increasing order, -1 where there is none.
        row_prompts: [N], the prompt of each unit.
    """

    values: Floats
    labelers: Indices
    row_prompts: Indices
    num_prompts: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Meetings:
    """Two labelers' verdicts on the same unit, [M] each; ``one`` comes before ``other``."""

    row: Indices
    prompt: Indices
    one: Indices
    other: Indices
    said_one: Floats
    said_other: Floats

    @property
    def agreeing(self) -> Floats:
        """1, one half or 0."""
        return 1 - np.abs(self.said_one - self.said_other) / 2


def agreement(rankings: Sequence[Ranking], *, seed: int = 0, resamples: int = 1000) -> Agreement:
    """All agreement statistics of rankings by named labelers; a later verdict of a labeler replaces the earlier one."""
    named = [ranking for ranking in rankings if ranking.labeler]
    verdicts, superseded, identical = _collect(_verdicts(named))
    ratings, superseded_ratings, _ = _collect(_ratings(named))
    judged, rated = _table(verdicts), _table(ratings)
    meetings, counts = _meetings(judged), _counts(judged.values)
    everyone = np.ones(len(meetings.row), dtype=bool)

    def by_row(statistic: Callable[[Floats], float | None], table: _Table = judged) -> Estimate:
        """A coefficient of row weights, and its interval by prompt."""
        count = table.num_prompts
        return bootstrap(lambda w: statistic(w[table.row_prompts]), count, seed=seed, resamples=resamples, most=1.0)

    percent = _percent(meetings, everyone, seed, resamples)
    return Agreement(
        percent=percent.value,
        low=percent.low,
        high=percent.high,
        cohen=by_row(_cohen(meetings, len(judged.names))),
        fleiss=by_row(lambda w: fleiss_kappa(counts, w)),
        alpha=by_row(lambda w: krippendorff_alpha(judged.values, metric="nominal", weights=w)),
        alpha_interval=by_row(lambda w: krippendorff_alpha(rated.values, metric="interval", weights=w), rated),
        ac1=by_row(lambda w: gwet_ac1(counts, w)),
        tau_b=_tau_b(meetings, seed, resamples),
        labelers=tuple(_labeler(judged, meetings, index, seed, resamples) for index in range(len(judged.names))),
        between=_between(meetings, judged.names),
        num_prompts=len(np.unique(meetings.prompt)),
        num_comparisons=len(meetings.row),
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
    number = {name: index for index, name in enumerate(names)}
    most = max((len(said) for said in judgements.values()), default=0)
    values, labelers = np.full((len(judgements), most), np.nan), np.full((len(judgements), most), -1, dtype=np.int64)
    units = sorted(judgements)
    for row, unit in enumerate(units):
        for place, (name, value) in enumerate(sorted(judgements[unit].items())):
            values[row, place], labelers[row, place] = value, number[name]
    rows = np.array([prompts[unit[0]] for unit in units], dtype=np.int64)
    return _Table(values, labelers, rows, len(prompts), tuple(names))


def _meetings(table: _Table) -> _Meetings:
    places = list(combinations(range(table.values.shape[1]), 2))
    met = [np.flatnonzero(table.labelers[:, second] >= 0) for _, second in places]  # then the first is there too
    first = np.repeat([place for place, _ in places], [len(rows) for rows in met]).astype(np.int64)
    second = np.repeat([place for _, place in places], [len(rows) for rows in met]).astype(np.int64)
    row = np.concatenate([np.empty(0, dtype=np.int64), *met])
    return _Meetings(
        row=row,
        prompt=table.row_prompts[row],
        one=table.labelers[row, first],
        other=table.labelers[row, second],
        said_one=table.values[row, first],
        said_other=table.values[row, second],
    )


def _counts(values: Floats) -> Floats:
    """[N, C] how often each verdict was given; a tie is a category only if somebody used it."""
    categories = (-1, 0, 1) if (values == 0).any() else (-1, 1)
    return np.stack([(values == verdict).sum(axis=1) for verdict in categories], axis=1).astype(np.float64)


def _percent(meetings: _Meetings, among: NDArray[np.bool_], seed: int, resamples: int) -> Estimate:
    """Percent agreement in some of the meetings, its interval by the prompts these were about."""
    _, prompts = np.unique(meetings.prompt[among], return_inverse=True)
    above = np.bincount(prompts, weights=meetings.agreeing[among])
    return ratio_estimate(above, np.bincount(prompts), seed=seed, resamples=resamples, share=True)


def _labeler(table: _Table, meetings: _Meetings, index: int, seed: int, resamples: int) -> LabelerAgreement:
    theirs = table.labelers == index
    present = (meetings.one == index) | (meetings.other == index)
    return LabelerAgreement(
        name=table.names[index],
        num_prompts=len(np.unique(table.row_prompts[theirs.any(axis=1)])),
        num_comparisons=int(present.sum()),
        tie_share=float((table.values[theirs] == 0).mean()),
        agreement=_percent(meetings, present, seed, resamples),
    )


def _between(meetings: _Meetings, names: Sequence[str]) -> dict[tuple[str, str], float]:
    pairs, index = np.unique(np.stack([meetings.one, meetings.other]), axis=1, return_inverse=True)
    shares = np.bincount(index, weights=meetings.agreeing) / np.maximum(np.bincount(index), 1)
    return {(names[one], names[other]): float(share) for (one, other), share in zip(pairs.T, shares, strict=True)}


def _cohen(meetings: _Meetings, num_labelers: int) -> Callable[[Floats], float | None]:
    """The mean kappa as a function of row weights."""
    _, pair = np.unique(meetings.one * num_labelers + meetings.other, return_inverse=True)
    num_pairs = int(pair.max(initial=-1)) + 1
    cells = 9 * pair + (3 * (meetings.said_one + 1) + meetings.said_other + 1).astype(np.int64)

    def kappa(weights: Floats) -> float | None:
        counts = np.bincount(cells, weights=weights[meetings.row], minlength=9 * num_pairs)
        return mean_cohen_kappa(counts.reshape(-1, 3, 3).astype(np.float64))

    return kappa


def _tau_b(meetings: _Meetings, seed: int, resamples: int) -> Estimate:
    """Verdicts are the signs of rank differences, and tau-b is their correlation about zero."""
    keys = np.stack([meetings.prompt, meetings.one, meetings.other])
    rankings, index = np.unique(keys, axis=1, return_inverse=True)
    x, y = meetings.said_one, meetings.said_other
    scale = np.sqrt(np.bincount(index, weights=x**2) * np.bincount(index, weights=y**2))
    defined = scale > 0
    taus = np.bincount(index, weights=x * y)[defined] / scale[defined]
    _, prompts = np.unique(rankings[0, defined], return_inverse=True)
    above, below = np.bincount(prompts, weights=taus), np.bincount(prompts)
    return ratio_estimate(above, below, seed=seed, resamples=resamples, most=1.0)
