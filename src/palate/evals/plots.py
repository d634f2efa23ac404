"""The pictures of a report, as SVG to put into a page.

Text stays text, colours follow the page's (``theme.py``), and equal data give equal bytes. Each function draws one
picture and returns it; none keeps matplotlib state. Left out: interaction, and bitmaps.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from palate.evals.calibration import Calibration
from palate.evals.theme import LIGHT, SERIES
from palate.evals.winrate import LengthBin
from palate.intervals import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A method in a picture of paths; a place is (x, y).

    Attributes:
        runs: the places of each run.
        mean: of all runs.
        colour: a number; what belongs together has the same one.
        dashed: without marks: of something that is known everywhere.
        peak: where it is highest, marked by a star.
    """

    label: str
    runs: Sequence[Sequence[tuple[float, float]]]
    mean: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False
    peak: tuple[float, float] | None = None


_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "palate",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # a labeler may be called $x$
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": LIGHT["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.08,
}
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")  # one more than colours, so that no two of many lines look alike
_NARROW, _WIDE = (6.4, 3.8), (8.4, 4.2)


def learning_curves(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> str:
    """One small panel for each group of metrics that the rows of ``metrics.jsonl`` have any of, over steps."""
    shown = {title: present for title, names in groups.items() if (present := [n for n in names if _has(rows, n)])}
    columns = min(3, max(1, len(shown)))
    num_rows = max(1, -(-len(shown) // columns))

    def draw(figure: Figure) -> None:
        for index, (title, names) in enumerate(shown.items()):
            axes = figure.add_subplot(num_rows, columns, index + 1)
            axes.set_title(title)
            for name, colour in zip(names, _colours(len(names)), strict=True):
                _curve(axes, *_series(rows, name), name, colour)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            if len(names) > 1:
                axes.legend(handlelength=1.2)
            if index >= len(shown) - columns:
                axes.set_xlabel("step")

    return render(draw, (3.5 * columns if columns > 1 else 6.4, 2.7 * num_rows), "Learning curves")


def reward_against_kl(kl: ArrayLike, reward: ArrayLike, labels: Sequence[str] = ()) -> str:
    """The path of a run: what it gained against how far it went from the reference. Empty labels are not drawn."""
    x, y = np.asarray(kl, dtype=np.float64), np.asarray(reward, dtype=np.float64)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        window = len(x) // 20
        if window < 3:
            axes.plot(x, y, color=SERIES[0], alpha=0.35, linewidth=1.5)
            axes.scatter(x, y, s=34, color=SERIES[0], edgecolor=LIGHT["paper"], linewidth=0.8, zorder=3)
        else:  # too many steps to follow each
            axes.scatter(x, y, s=12, color=SERIES[0], alpha=0.4, linewidth=0)
            axes.plot(_running_mean(x, window), _running_mean(y, window), color=SERIES[0])
        for a, b, label in zip(x, y, labels, strict=False):
            _note(axes, label, (a, b), (6, 6))
        axes.set_xlabel("KL to the reference policy (nats per response)")
        axes.set_ylabel("reward")
        axes.margins(0.08)

    return render(draw, _NARROW, "Reward against KL")


def paths(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    level: tuple[float, str] | None = None,
    at: float | None = None,
    percent: bool = False,
    doublings: bool = False,
) -> str:
    """What each method gained on its way: every run a thin line, their mean a strong one with its stops.

    Args:
        level: a height to compare with, dotted, and what it is.
        at: a place at which all are compared, a thin upright line.
        percent: y is a share.
        doublings: equal factors of x are equally wide.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        if doublings:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        if level is not None:
            axes.axhline(level[0], color=LIGHT["muted"], linewidth=1.2, linestyle=":", label=level[1])
        if at is not None:
            axes.axvline(at, color=LIGHT["muted"], linewidth=0.8)
        for index, line in enumerate(lines):
            colour, marker = SERIES[line.colour % len(SERIES)], _MARKERS[index % len(_MARKERS)]
            for run in line.runs if len(line.runs) > 1 else ():
                axes.plot(*zip(*run, strict=True), color=colour, linewidth=0.9, alpha=0.4)
            style: dict[str, Any] = {"linestyle": "--" if line.dashed else "-"}
            if not line.dashed:
                style |= {"marker": marker, "markersize": 6, "markeredgecolor": LIGHT["paper"]}
            axes.plot(*zip(*line.mean, strict=True), color=colour, label=_shorten(line.label, 40), **style)
            if line.peak is not None:
                axes.scatter(*line.peak, s=110, marker="*", color=colour, edgecolor=LIGHT["ink"], zorder=4)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.margins(0.05)
        if lines:
            figure.legend(loc="outside right upper", handletextpad=0.6)

    return render(draw, _WIDE, f"{y_label} against {x_label}")


def over_rounds(panels: Mapping[str, Mapping[str, Mapping[int, Estimate]]], *, levels: Mapping[str, float]) -> str:
    """A small panel for each title: a line for each label, through its estimates by the number of the round.

    Args:
        levels: by title a height to compare with, dotted.
    """
    num_rows = -(-len(panels) // 2)
    rounds = sorted({place for lines in panels.values() for found in lines.values() for place in found})

    def draw(figure: Figure) -> None:
        for index, (title, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(num_rows, 2, index + 1)
            axes.set_title(title)
            if title in levels:
                axes.axhline(levels[title], color=LIGHT["muted"], linewidth=1.2, linestyle=":")
            for number, (label, found) in enumerate(lines.items()):
                x = [place + 0.05 * number for place in found]  # so that one interval does not hide another
                y = [np.nan if estimate.value is None else estimate.value for estimate in found.values()]
                style: Any = {"color": SERIES[number % len(SERIES)], "marker": _MARKERS[number % len(_MARKERS)]}
                axes.errorbar(x, y, ends_from(list(found.values())), elinewidth=1.4, capsize=3, label=label, **style)
            axes.set(xlabel="round", xticks=rounds, xlim=(rounds[0] - 0.25, rounds[-1] + 0.3))
            if len(lines) > 1:
                axes.legend()

    return render(draw, (8.4, 2.9 * num_rows), "Round by round")


def calibration(result: Calibration) -> str:
    """Reliability: how often the favourite was right against how sure the model was; on the line it is honest."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0.5, 1], [0.5, 1], "--", color=LIGHT["muted"], linewidth=1.2)
        x = [item.predicted for item in result.bins]
        y = [item.observed.value or 0.0 for item in result.bins]
        largest = max((item.count for item in result.bins), default=1)
        sizes = [20 + 200 * item.count / largest for item in result.bins]
        errors = ends_from([item.observed for item in result.bins])
        axes.errorbar(x, y, errors, fmt="none", color=SERIES[0], elinewidth=1.4, alpha=0.45)
        axes.scatter(x, y, s=sizes, color=SERIES[0], edgecolor=LIGHT["paper"], linewidth=0.9, zorder=3)
        for a, b, item in zip(x, y, result.bins, strict=True):
            _note(axes, str(item.count), (a, b), (9, -11))
        axes.set_xlabel("confidence of the reward model in its favourite")
        axes.set_ylabel("how often it was right")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlim(0.49, 1.02)

    return render(draw, (5.6, 4.2), "Calibration of the reward model")


def agreement_matrix(names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> str:
    """How often each two labelers agree, [L, L]; the deeper the colour the more. None stays empty."""
    size = len(names)
    side = min(8.4, 1.6 + 0.75 * size)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for row, column in np.ndindex(size, size):
            value = matrix[row][column]
            corner = (column - 0.47, row - 0.47)
            if value is None:
                axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=LIGHT["grid"], alpha=0.4, linewidth=0))
                continue
            depth = float(np.clip((value - 0.4) / 0.6, 0.05, 1))
            axes.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=SERIES[0], alpha=0.6 * depth, linewidth=0))
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=10 if size < 9 else 8)
        shown = [_shorten(name) for name in names]
        axes.set_xticks(range(size), shown, rotation=0 if size < 6 else 60, ha="center" if size < 6 else "right")
        axes.set_yticks(range(size), shown)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, colors=LIGHT["ink"])

    return render(draw, (side + 0.8, side), "Agreement between labelers")


def before_after(scores_before: ArrayLike, scores_after: ArrayLike) -> str:
    """Two histograms on one axis; the lines are the means."""
    before, after = (np.ravel(np.asarray(scores, dtype=np.float64)) for scores in (scores_before, scores_after))
    edges = np.histogram_bin_edges(np.concatenate([before, after]), bins=30).tolist()

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, scores, colour in (("before", before, LIGHT["muted"]), ("after", after, SERIES[0])):
            shares, label = np.full(len(scores), 1 / len(scores)), f"{name}, mean {scores.mean():.2f}"
            axes.hist(scores, edges, weights=shares, color=colour, alpha=0.45, label=label)
            axes.axvline(float(scores.mean()), color=colour, linewidth=2)
        axes.set_xlabel("score")
        axes.set_ylabel("share of responses")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper left", ncols=2)

    return render(draw, _NARROW, "Scores before and after")


def win_rate_by_length(bins: Sequence[LengthBin]) -> str:
    """The win rate where the model's response is shorter, alike and longer, with intervals and numbers of pairs."""
    labels = [f"{item.label}\n{item.num_pairs:,} pairs" for item in bins]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(0.5, color=LIGHT["muted"], linewidth=1.2, linestyle=":")
        places, rates = np.arange(len(bins)), [item.rate.value or 0.0 for item in bins]
        errors = ends_from([item.rate for item in bins])
        axes.errorbar(places, rates, errors, fmt="none", color=SERIES[0], elinewidth=1.6, capsize=3, alpha=0.6)
        axes.scatter(places, rates, s=52, color=SERIES[0], edgecolor=LIGHT["paper"], linewidth=0.9, zorder=3)
        for place, rate in zip(places, rates, strict=True):
            _note(axes, f"{rate:.0%}", (float(place), rate), (8, 4))
        axes.set_xticks(places, labels)
        axes.tick_params(axis="x", length=0)
        axes.set(xlim=(-0.5, len(bins) - 0.3), ylim=(-0.02, 1.02))
        axes.set_ylabel("win rate")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False, axis="x")

    return render(draw, (max(6.4, 1.0 * len(bins)), 3.9), "Win rate by difference in length")


def bars_with_intervals(
    labels: Sequence[str], estimates: Sequence[Estimate], *, unit: str = "", percent: bool = True
) -> str:
    """One horizontal bar for each estimate, with its interval and its value; an undefined one is said to be so."""
    values = [np.nan if estimate.value is None else estimate.value for estimate in estimates]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places, errors = np.arange(len(labels)), ends_from(estimates)
        axes.barh(places, values, height=0.62, color=SERIES[0], alpha=0.55)
        axes.errorbar(values, places, xerr=errors, fmt="none", color=LIGHT["ink"], elinewidth=1.4, capsize=3)
        for place, estimate in zip(places, estimates, strict=True):
            end = max(0.0, estimate.high or 0.0, estimate.value or 0.0)
            text = _value(estimate.value, percent)
            axes.annotate(text, (end, place), (8, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [_shorten(label, 40) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0, colors=LIGHT["ink"])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.12)
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel(unit)

    return render(draw, (7.2, 0.9 + 0.45 * len(labels)), unit or "Estimates")


def _shorten(label: str, length: int = 24) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def _value(value: float | None, percent: bool) -> str:
    if value is None:
        return "undefined"
    return f"{value:.1%}" if percent else f"{value:.3g}"


def _note(axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float]) -> None:
    if text:
        axes.annotate(text, point, offset, textcoords="offset points", fontsize=9, color=LIGHT["muted"])


def _curve(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], label: str, colour: str) -> None:
    """A line, and for many points a running mean over the faint raw line."""
    window = len(y) // 20
    if window < 3:
        axes.plot(x, y, color=colour, label=label, marker="o" if len(y) == 1 else None)
        return
    axes.plot(x, y, color=colour, linewidth=1, alpha=0.3)
    axes.plot(x, _running_mean(y, window), color=colour, label=label)


def _running_mean(y: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Over the neighbours that there are: fewer at the ends."""
    sums, counts = (np.convolve(values, np.ones(window), "same") for values in (y, np.ones(len(y))))
    return np.asarray(sums / counts, dtype=np.float64)


def _has(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(name in row for row in rows)


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = [(float(row.get("step", index)), float(row[name])) for index, row in enumerate(rows) if name in row]
    x, y = np.array(points).T
    return x, y


def _colours(count: int) -> list[str]:
    return [SERIES[index % len(SERIES)] for index in range(count)]


def ends_from(estimates: Sequence[Estimate]) -> NDArray[np.float64]:
    """[2, N] distances to the interval's ends; 0 where there is none."""
    distances = [
        (0.0, 0.0)
        if estimate.value is None or estimate.low is None or estimate.high is None
        else (max(0.0, estimate.value - estimate.low), max(0.0, estimate.high - estimate.value))
        for estimate in estimates
    ]
    return np.array(distances, dtype=np.float64).reshape(-1, 2).T


def render(draw: Callable[[Figure], None], size: tuple[float, float], title: str) -> str:
    """What was drawn as SVG for a page; size in inches."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text: the reader's browser has the glyph
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _for_page(buffer.getvalue(), title)


def _for_page(svg: str, title: str) -> str:
    """From a file of its own to a part of a page: no header, metadata, style or ids of groups; the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace("xlink:href=", "href=").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, sans-serif", svg)
    for name, colour in LIGHT.items():
        svg = re.sub(rf"(?<=[ :]){colour}\b", f"var(--{name}, {colour})", svg)
    width = 1.5 * float(svg.split('width="', 1)[1].split("pt", 1)[0])  # so that all pictures have type of one size
    return svg.replace(
        "<svg ", f'<svg role="img" aria-label="{escape(title)}" style="max-width: {width:.0f}px" ', 1
    ).strip()
