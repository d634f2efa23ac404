"""Lines over an axis, with bands, gaps and running means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from palate.studio.web.charts.axes import (
    ANY,
    COUNT,
    Axis,
    Formatter,
    Range,
    Value,
    nice_axis,
    plain,
    ticked,
    tight_axis,
    whole_number,
)
from palate.studio.web.charts.figure import (
    NOTHING,
    NUM_COLOURS,
    coordinate,
    figure,
    interval,
    label,
    legend,
    sheet,
    written,
)

MOST_POINTS = 600
MOST_ROWS = 40

_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 10.0, 40.0
_HEADROOM = 18.0  # for a label above the vertical axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: values y over x, None where there is none; ``low`` and ``high`` make a band around it."""

    name: str
    x: Sequence[float]
    y: Sequence[Value]
    low: Sequence[Value] | None = None
    high: Sequence[Value] | None = None


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "",
    y_label: str = "",
    y_low: Value = None,
    y_high: Value = None,
    y_within: Range = ANY,
    reference: Value = None,
    x_format: Formatter | None = None,
    y_format: Formatter | None = None,
    smooth: bool = False,
    size: tuple[int, int] = (480, 240),
) -> Markup:
    """Several lines over one axis; values at a single place are no line, and are told in words.

    Args:
        title: what a person would call the picture.
        series: drawn in the colours c1, c2, ...
        x_label, y_label: right below the one axis, and above the other.
        y_low, y_high: the axis reaches at least so far.
        y_within: what values can be, and the axis shows no more.
        reference: a dotted level.
        x_format, y_format: of ticks and the table; by default plain numbers.
        smooth: each value faint, and strong their running mean.
        size: width and height of the drawing in its own units; it is scaled to its place.
    """
    xs = [x for line in series for x, y in zip(line.x, line.y, strict=True) if y is not None]
    if not xs:
        return figure(title, NOTHING, [], "")
    y_shown = y_format or (whole_number if y_within == COUNT else plain)
    if len(set(xs)) == 1:
        return _told(title, series, x_label, x_format or plain, y_shown)
    ys = [y for line in series for values in (line.y, line.low or (), line.high or ()) for y in values if y is not None]
    ys += [bound for bound in (y_low, y_high, reference) if bound is not None]
    whole = all(x == int(x) for x in xs)
    x_axis = tight_axis(min(xs), max(xs), whole=whole)
    y_axis = nice_axis(min(ys), max(ys), within=y_within, whole=y_within == COUNT)
    frame = _Frame(x_axis, y_axis, size, _TOP + (_HEADROOM if y_label else 0))
    grid = frame.grid(x_format or ticked(x_axis), y_format or ticked(y_axis), x_label, y_label)
    level = "" if reference is None else frame.level(reference)
    drawn = Markup("").join(_line(frame, line, index, smooth) for index, line in enumerate(series))
    text = x_label or "x"
    x_shown = x_format or (ticked(x_axis) if whole else plain)
    said = f"{text} from {x_shown(min(xs))} to {x_shown(max(xs))}. " + " ".join(
        f"{line.name}: last value {y_shown(last)}."
        for line in series
        if (last := next((y for y in reversed(line.y) if y is not None), None)) is not None
    )
    svg = sheet(size, title, said, Markup("{}{}{}").format(grid, level, drawn))
    header, rows = _series_table(series, text, x_shown, y_shown)
    return figure(title, svg + legend([line.name for line in series]), header, "Numbers", rows)


def _told(title: str, series: Sequence[Series], text: str, x_format: Formatter, y_format: Formatter) -> Markup:
    """Where there is but one place: "step 1: 0.5 (0.4 to 0.6)", with the series' names where there are several."""
    said = []
    for line in series:
        found = [index for index, y in enumerate(line.y) if y is not None]
        for index in found:
            low, high = (values[index] if values else None for values in (line.low, line.high))
            told = f"{text} {x_format(line.x[index])}".strip() + f": {interval(line.y[index], low, high, y_format)}"
            said.append(told if len(series) == 1 else f"{line.name}, {told}")
    return figure(title, Markup('<p class="lone">{}.</p>').format("; ".join(said)), [], "")


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """[N] the mean of up to ``window`` values on either side of each, as many on the one as on the other."""
    result = []
    for index in range(len(values)):
        reach = min(window, index, len(values) - 1 - index)
        part = values[index - reach : index + reach + 1]
        result.append(sum(part) / len(part))
    return result


class _Frame:
    """Axes on a sheet: data in, places out."""

    def __init__(self, x_axis: Axis, y_axis: Axis, size: tuple[int, int], top: float) -> None:
        self.x_axis, self.y_axis, self.top = x_axis, y_axis, top
        self.width, self.height = size

    def x(self, value: float) -> float:
        """From left to right."""
        return _LEFT + self.x_axis.share(value) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """From the bottom up."""
        return self.height - _BOTTOM - self.y_axis.share(value) * (self.height - self.top - _BOTTOM)

    def grid(self, x_format: Formatter, y_format: Formatter, x_label: str, y_label: str) -> Markup:
        """Lines, ticks and labels."""
        left, right, base = coordinate(_LEFT), coordinate(self.width - _RIGHT), self.height - _BOTTOM
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
        parts = [line.format(left, right, y=coordinate(self.y(tick))) for tick in self.y_axis.ticks]
        parts += [label(_LEFT - 8, self.y(tick) + 4, y_format(tick), "end") for tick in self.y_axis.ticks]
        inside = [tick for tick in self.x_axis.ticks if self.x_axis.low <= tick <= self.x_axis.high]
        parts += [label(self.x(tick), base + 17, x_format(tick), "middle") for tick in inside]
        if x_label:
            parts.append(label(self.width - _RIGHT, self.height - 4.0, x_label, "end"))
        if y_label:
            parts.append(label(2.0, _HEADROOM - 5, y_label, "start"))
        return Markup("").join(parts)

    def level(self, value: float) -> Markup:
        """A dotted line across."""
        line = '<line class="level" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        return Markup(line).format(coordinate(_LEFT), coordinate(self.width - _RIGHT), y=coordinate(self.y(value)))

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """``M x y L x y ...`` through points of the data."""
        return "M" + "L".join(f"{coordinate(self.x(x))} {coordinate(self.y(y))}" for x, y in points)


def _line(frame: _Frame, line: Series, index: int, smooth: bool) -> Markup:
    """Band, faint raw values if they are smoothed, and the line; gaps stay gaps."""
    colour = index % NUM_COLOURS + 1
    parts = [_band(frame, line, colour)]
    for points in _stretches(line.x, line.y):
        thin = _thin(points)
        window = len(points) // 20
        if len(points) == 1:
            parts.append(_dot(frame, points[0], colour))
        elif smooth and window >= 1:
            mean = running_mean([y for _, y in points], window)
            parts.append(Markup('<path class="raw c{}" d="{}"/>').format(colour, frame.path(thin)))
            strong = _thin([(x, y) for (x, _), y in zip(points, mean, strict=True)])
            parts.append(Markup('<path class="line c{}" d="{}"/>').format(colour, frame.path(strong)))
        else:
            parts.append(Markup('<path class="line c{}" d="{}"/>').format(colour, frame.path(thin)))
            if len(points) <= 12:
                parts += [_dot(frame, point, colour) for point in points]
    return Markup("").join(parts)


def _band(frame: _Frame, line: Series, colour: int) -> Markup:
    if line.low is None or line.high is None:
        return Markup("")
    whole = [
        (x, low, high)
        for x, low, high in zip(line.x, line.low, line.high, strict=True)
        if low is not None and high is not None
    ]
    if not whole:
        return Markup("")
    outline = [(x, high) for x, _, high in whole] + [(x, low) for x, low, _ in reversed(whole)]
    return Markup('<path class="band c{}" d="{}Z"/>').format(colour, frame.path(outline))


def _dot(frame: _Frame, point: tuple[float, float], colour: int) -> Markup:
    x, y = point
    return Markup('<circle class="dot c{}" cx="{}" cy="{}" r="3"/>').format(
        colour, coordinate(frame.x(x)), coordinate(frame.y(y))
    )


def _series_table(
    series: Sequence[Series], x_label: str, x_format: Formatter, y_format: Formatter
) -> tuple[list[str], list[list[str]]]:
    """One row for each x, thinned to `MOST_ROWS`."""
    at = [dict(zip(line.x, line.y, strict=True)) for line in series]
    xs = sorted({x for line in at for x in line})
    shown = [xs[index] for index in spread(len(xs), MOST_ROWS)]
    rows = [[x_format(x), *(written(line.get(x), y_format) for line in at)] for x in shown]
    return [x_label, *(line.name for line in series)], rows


def _stretches(x: Sequence[float], y: Sequence[Value]) -> list[list[tuple[float, float]]]:
    """The points in runs without a gap."""
    points = [(a, b) for a, b in zip(x, y, strict=True)]
    runs = groupby(points, key=lambda point: point[1] is None)
    return [[(a, b) for a, b in run if b is not None] for missing, run in runs if not missing]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [points[index] for index in spread(len(points), MOST_POINTS)]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]
