"""What finished runs said of themselves, as figures over draws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.evals.page import read_object
from palate.experiments.repeats.draws import Draw
from palate.experiments.repeats.spread import (
    deviation,
    over_seeds,
    part_of_variance,
    shares,
    sum_beside_whole,
    surely_largest,
    within,
)
from palate.intervals import Estimate

Told = Mapping[str, Estimate]
"""Figures of one draw, by name."""

_NOT_FIGURES = {"title", "stage", "recipe", "steps", "seconds", "notes", "failed"}
_UNCOUNTED = ("time/", "data/", "endpoint/")
"""Metrics that say nothing of what was learned."""


def read_figures(directory: Path) -> dict[str, Estimate]:
    """Every number of a finished run's report, with its interval where it has one; metrics are those of its last step.

    Of lists those are read whose entries have a name, as a report card's rows have by section and measure.
    """
    tree = {key: value for key, value in read_object(directory / "report.json").items() if key not in _NOT_FIGURES}
    metrics = tree.pop("metrics", {})
    numbers = dict(_numbers(tree, ""))
    ends = {f"{name}_{side}" for name in numbers for side in ("low", "high")}
    found = {
        name: Estimate(value, numbers.get(f"{name}_low"), numbers.get(f"{name}_high"))
        for name, value in numbers.items()
        if name not in ends
    }
    last = {f"last step: {name}": value for name, value in _numbers(metrics, "") if not name.startswith(_UNCOUNTED)}
    return found | {name: Estimate(value) for name, value in last.items()}


def _numbers(tree: Any, name: str) -> Iterator[tuple[str, float]]:
    """Finite numbers of a tree with the keys that lead to them."""
    if isinstance(tree, bool) or tree is None:
        return
    if isinstance(tree, int | float):
        if math.isfinite(tree):
            yield name, float(tree)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for each in tree:
            called = _called(each)
            if called:
                yield from _numbers({k: v for k, v in each.items() if not isinstance(v, str)}, f"{name}.{called}")


def _called(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return ""
    words = [entry.get(key) for key in ("section", "protocol", "measure", "name", "objective")]
    return " ".join(word for word in words if isinstance(word, str))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure over all draws.

    Attributes:
        by_seed: of the runs in which everything was drawn by one seed.
        anew: by source, the pairs (as it was, with the source drawn anew) of seeds of which both are known.
    """

    name: str
    by_seed: Mapping[int, Estimate]
    anew: Mapping[str, Sequence[tuple[float, float]]]

    @property
    def values(self) -> list[float]:
        """[N] over seeds."""
        return [float(each.value) for each in self.by_seed.values() if each.value is not None]

    @property
    def mean(self) -> Estimate:
        """Over seeds, with its interval by seed."""
        return over_seeds(self.values)

    @property
    def spread(self) -> Estimate:
        """Standard deviation over seeds."""
        return deviation(self.values)

    @property
    def within(self) -> float | None:
        """Standard error within one run, that is by prompt or item; None where the report gives no interval."""
        return within(list(self.by_seed.values()))

    @property
    def parts(self) -> dict[str, float]:
        """The variance of each source."""
        return {
            name: part_of_variance(*zip(*pairs, strict=True)) for name, pairs in self.anew.items() if len(pairs) > 0
        }

    @property
    def pairs(self) -> list[int]:
        """Of each source in ``parts``: the pairs of runs that it is known from."""
        return [len(pairs) for pairs in self.anew.values() if len(pairs) > 0]

    @property
    def shares(self) -> dict[str, Estimate]:
        """Of each source in the sum of the parts; none before every source has been drawn anew."""
        complete = bool(self.anew) and all(self.anew.values())
        return dict(zip(self.parts, shares(list(self.parts.values()), self.pairs), strict=True)) if complete else {}

    @property
    def largest(self) -> str:
        """The source that is known to have the largest part; empty if that cannot be told."""
        place = surely_largest(list(self.parts.values()), self.pairs) if self.shares else None
        return "" if place is None else list(self.parts)[place]

    @property
    def sum_of_parts(self) -> Estimate:
        """Over the square of the spread."""
        spread = self.spread.value
        if not self.shares or not spread:
            return Estimate(None)
        return sum_beside_whole(list(self.parts.values()), self.pairs, spread**2, len(self.by_seed) - 1)

    @property
    def varies(self) -> bool:
        """It is not the same in every run."""
        every = self.values + [value for pairs in self.anew.values() for pair in pairs for value in pair]
        return len(set(every)) > 1


def figures_of(told: Mapping[Draw, Told], idle: Sequence[str] = (), apart: Sequence[str] = ()) -> list[Figure]:
    """Every figure that is known of all seeds' runs, in the order of the reports.

    Args:
        told: by draw.
        idle: sources that were found to do nothing, so that no more runs were made with them.
        apart: sources that are drawn apart, or will be.
    """
    seeds = sorted(draw.seed for draw in told if not draw.anew)
    sources = list(dict.fromkeys([*apart, *(draw.anew for draw in told if draw.anew)]))
    names = dict.fromkeys(name for seed in seeds for name in told[Draw(seed=seed)])
    found = []
    for name in names:
        by_seed = {seed: told[Draw(seed=seed)][name] for seed in seeds if name in told[Draw(seed=seed)]}
        if len(by_seed) < len(seeds):
            continue
        anew: dict[str, list[tuple[float, float]]] = {}
        for source in sources:
            counted = [seed for seed in seeds if source in idle or name in told.get(Draw(seed=seed, anew=source), {})]
            anew[source] = [
                (
                    _value(by_seed[seed]),
                    _value(by_seed[seed] if source in idle else told[Draw(seed=seed, anew=source)][name]),
                )
                for seed in counted
            ]
        found.append(Figure(name=name, by_seed=by_seed, anew=anew))
    return found


def _value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def without_copies(figures: Sequence[Figure]) -> tuple[list[Figure], dict[str, str]]:
    """Those that are not the same as an earlier one in every run, and of the others whose copies they are, by name.

    Of copies the first one stays, or the first with an interval of its own.
    """
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(json.dumps([figure.values, list(figure.anew.items())]), []).append(figure)
    kept = {id(max(group, key=lambda each: each.within is not None)) for group in groups.values()}
    original = {
        each.name: next(one.name for one in group if id(one) in kept)
        for group in groups.values()
        for each in group
        if id(each) not in kept
    }
    return [figure for figure in figures if id(figure) in kept], original


def as_json(figure: Figure) -> dict[str, Any]:
    """What a program wants to know of a figure."""
    shares = figure.shares
    return {
        "name": figure.name,
        "by_seed": {str(seed): [each.value, each.low, each.high] for seed, each in figure.by_seed.items()},
        "mean": [figure.mean.value, figure.mean.low, figure.mean.high],
        "spread": [figure.spread.value, figure.spread.low, figure.spread.high],
        "within": figure.within,
        "parts": {
            name: {
                "variance": part,
                "share": shares[name].value if name in shares else None,
                "share_low": shares[name].low if name in shares else None,
                "share_high": shares[name].high if name in shares else None,
                "pairs": len(figure.anew[name]),
            }
            for name, part in figure.parts.items()
        },
        "largest": figure.largest,
    }


def same(a: Told, b: Told) -> bool:
    """Two draws gave the same to the last bit."""
    return json.dumps({k: v.value for k, v in a.items()}) == json.dumps({k: v.value for k, v in b.items()})
