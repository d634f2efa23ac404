"""The pictures of a card: every compared difference with its interval, and how far the choices' probabilities hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from palate.evals.calibration import Bin
from palate.evals.card.compared import Row
from palate.evals.plots import ends_from, render
from palate.evals.theme import LIGHT, SERIES
from palate.intervals import Estimate

_COLOURS = {"better": "green", "worse": "red", "changed": "orange"}


def forest(rows: Sequence[Row]) -> str:
    """Differences of the compared measures, better to the right: shares in points, others in hundredths of before."""
    shares = [row for row in rows if row.measure.unit == "share"]
    others = [row for row in rows if row.measure.unit != "share"]
    panels = [(part, title) for part, title in ((shares, "points of a share"), (others, "% of before")) if part]

    def draw(figure: Figure) -> None:
        heights = [len(part) for part, _ in panels]
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for each, (part, title) in zip(axes, panels, strict=True):
            _differences(each, part, title)

    return render(draw, (8.0, 1.1 * len(panels) + 0.42 * len(rows)), "What changed, with 95% intervals")


def _differences(axes: Axes, rows: Sequence[Row], unit: str) -> None:
    estimates = [turned(row) for row in rows]
    axes.axvline(0, color=LIGHT["muted"], linewidth=1.2, linestyle=":")
    for place, (row, estimate) in enumerate(zip(rows, estimates, strict=True)):
        colour = LIGHT[_COLOURS.get(row.verdict, "muted")]
        value = np.nan if estimate.value is None else estimate.value
        axes.errorbar(value, place, xerr=ends_from([estimate]), fmt="none", color=colour, elinewidth=2, capsize=3)
        axes.scatter(value, place, s=46, color=colour, edgecolor=LIGHT["paper"], linewidth=0.8, zorder=3)
    arrows = {"higher": "", "lower": " (less is better)", "neither": " (neither is better)"}
    labels = [f"{row.name}{arrows[row.measure.better]}" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, colors=LIGHT["ink"])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.set_xlabel(f"← worse · {unit} · better →")


def turned(row: Row) -> Estimate:
    """The difference so that more is better, in hundredths: of a share, or of what it was before."""
    assert row.change is not None
    assert row.before is not None
    found, scale = row.change.difference, 100.0
    if row.measure.unit != "share":
        scale = 100 / abs(row.before.value) if row.before.value else np.nan
    if row.measure.better == "lower":
        scale = -scale
    ends = [None if end is None else end * scale for end in (found.value, found.low, found.high)]
    return Estimate(ends[0], *((ends[2], ends[1]) if scale < 0 else (ends[1], ends[2])))


def reliability(models: Mapping[str, Sequence[Bin]]) -> str:
    """How often a model's favourite was right against how sure it was of it; on the line it is honest."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], "--", color=LIGHT["muted"], linewidth=1.2)
        for number, (name, bins) in enumerate(models.items()):
            x, y = [each.predicted for each in bins], [each.observed.value or 0.0 for each in bins]
            errors = ends_from([each.observed for each in bins])
            axes.errorbar(x, y, errors, color=SERIES[number], marker="os"[number % 2], elinewidth=1.2, label=name)
        axes.set_xlabel("probability of the favourite among the choices")
        axes.set_ylabel("how often it was right")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend()

    return render(draw, (5.6, 4.2), "Calibration of choices")
