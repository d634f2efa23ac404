"""Agreement coefficients on plain tables, each with an optional weight per unit so that prompts can be resampled.

    cohen_kappa          two raters, agreement beyond what their own habits would give (Cohen 1960)
    fleiss_kappa         many raters, beyond what the pooled habits would give (Fleiss 1971)
    krippendorff_alpha   any number of raters, missing entries, nominal or interval (Krippendorff 2011)
    gwet_ac1             steadier than kappa when one category is rare (Gwet 2008)
    kendall_tau_b        two rankings with ties (Kendall 1945)

Where a coefficient is 0 / 0, as when every judgement falls into one category, it is None: undefined, neither 0 nor 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def cohen_kappa(confusion: ArrayLike) -> float | None:
    """Kappa of a [C, C] table: how often rater one said row and rater two said column."""
    return mean_cohen_kappa(np.asarray(confusion, dtype=np.float64)[None])


def mean_cohen_kappa(confusions: Floats) -> float | None:
    """Kappas of [R, C, C] tables, averaged with the tables' totals as weights; undefined ones are left out."""
    totals = confusions.sum(axis=(1, 2))
    used = confusions[totals > 0]
    totals = totals[totals > 0]
    observed = np.trace(used, axis1=1, axis2=2) / totals
    expected = np.einsum("rc,rc->r", used.sum(axis=1), used.sum(axis=2)) / totals**2
    defined = expected < 1 - 1e-12
    if not defined.any():
        return None
    kappas = (observed[defined] - expected[defined]) / (1 - expected[defined])
    return float(np.average(kappas, weights=totals[defined]))


def fleiss_kappa(counts: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Kappa of [N, C] counts: how many raters put unit n into category c.

    Units with one rater are left out. Where their number varies, each unit weighs the same in the observed agreement.
    """
    table, weight = _units(counts, weights)
    if not weight.sum():
        return None
    shares = weight @ table / float(weight @ table.sum(axis=1))
    return _beyond_chance(_observed(table, weight), float(shares @ shares))


def gwet_ac1(counts: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """AC1 of [N, C] counts, with C the number of categories on offer, used or not."""
    table, weight = _units(counts, weights)
    categories = table.shape[1]
    if not weight.sum() or categories < 2:
        return None
    shares = weight @ (table / table.sum(axis=1, keepdims=True)) / weight.sum()
    return _beyond_chance(_observed(table, weight), float(shares @ (1 - shares)) / (categories - 1))


def krippendorff_alpha(
    values: ArrayLike, *, metric: Literal["nominal", "interval"], weights: ArrayLike | None = None
) -> float | None:
    """Alpha of [N, R] values: what rater r said of unit n, NaN where nothing.

    For nominal values the numbers are mere names; for interval values disagreement is the squared difference.
    """
    table = np.asarray(values, dtype=np.float64)
    if metric == "nominal":
        columns = [table == name for name in np.unique(table[~np.isnan(table)])]  # a name as 0/1 columns: the squared
    else:  # difference summed over columns is 2 for two names, 0 for one
        columns = [np.where(np.isnan(table), 0.0, table)]
    present = ~np.isnan(table)
    weight = np.ones(len(table)) if weights is None else np.asarray(weights, dtype=np.float64)
    weight = weight * (present.sum(axis=1) >= 2)
    if not weight.sum():
        return None
    sizes = present.sum(axis=1).astype(np.float64)
    total = float(weight @ sizes)
    within = between = 0.0
    for column in columns:
        sums, squares = (column * present).sum(axis=1), (column**2 * present).sum(axis=1)
        within += float(weight @ ((sizes * squares - sums**2) / np.maximum(sizes - 1, 1)))
        between += (total * float(weight @ squares) - float(weight @ sums) ** 2) / (total - 1)
    return 1 - within / between if between > 1e-12 else None


def kendall_tau_b(first: ArrayLike, second: ArrayLike) -> float | None:
    """Tau-b of two rankings of the same K responses; None if either ties all of them."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    upper = np.triu_indices(len(a), k=1)
    x, y = np.sign(a[:, None] - a[None, :])[upper], np.sign(b[:, None] - b[None, :])[upper]
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else None


def _units(counts: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    """The units that at least two raters judged, and their weights."""
    table = np.asarray(counts, dtype=np.float64)
    weight = np.ones(len(table)) if weights is None else np.asarray(weights, dtype=np.float64)
    judged = table.sum(axis=1) >= 2
    return table[judged], weight[judged]


def _observed(table: Floats, weight: Floats) -> float:
    """Mean share of rater pairs that agree on a unit."""
    raters = table.sum(axis=1)
    agreeing = (table * (table - 1)).sum(axis=1) / (raters * (raters - 1))
    return float(np.average(agreeing, weights=weight))


def _beyond_chance(observed: float, expected: float) -> float | None:
    return (observed - expected) / (1 - expected) if expected < 1 - 1e-12 else None
