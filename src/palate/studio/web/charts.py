"""Pictures of numbers, drawn on the server as SVG that our strict policy for pages allows.

    {{ charts.lines("Score", [Series(name="score", x=steps, y=scores)], x_label="step", smooth=True) }}

Every function returns one ``<figure>``: the drawing, with a title and a description for those who do not see it, a
legend where there are several series, and the numbers themselves as a table to be unfolded. Colours are the classes
``c1`` to ``c6`` of ``static/charts.css``, which a page with charts includes; each has a dash pattern of its own, so
that nothing depends on colour. There are no inline styles and no ids.

Left out: logarithmic axes, and anything that moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

NUM_COLOURS = 6
MOST_POINTS = 600
MOST_ROWS = 40
BROAD = 560
"""A drawing wider than this takes all the width there is; others stay at the size of the text around them."""

Formatter = Callable[[float], str]
Value = float | None

_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 10.0, 40.0
_ROW, _LABEL, _VALUE = 30.0, 132.0, 60.0
_HEADROOM = 18.0  # for a label above the vertical axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: values y over x, None where there is none; ``low`` and ``high`` make a band around it."""

    name: str
    x: Sequence[float]
    y: Sequence[Value]
    low: Sequence[Value] | None = None
    high: Sequence[Value] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One horizontal bar; ``low`` and ``high`` make a whisker, ``note`` stands in the table."""

    label: str
    value: Value
    low: Value = None
    high: Value = None
    note: str = ""
    colour: int = 1


@dataclass(frozen=True, slots=True)
class Axis:
    """The range of one direction and its ticks, which lie on round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @property
    def step(self) -> float:
        """Distance of two ticks."""
        return self.ticks[1] - self.ticks[0]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def nice_axis(low: float, high: float, *, count: int = 5, whole: bool = False) -> Axis:
    """About ``count`` ticks at multiples of 1, 2, 2.5 or 5 times a power of ten, the first and last around the data.

    Args:
        low, high: of the data; a single value gets some room around it.
        count: ticks wanted.
        whole: only at whole numbers.
    """
    if high <= low:
        room = abs(low) / 10 or 0.5
        low, high = low - room, high + room
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step - 1e-9)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(_clean(index * step) for index in range(first, max(last, first + 1) + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def plain(value: float) -> str:
    """Three significant digits, without an exponent where one can do without it."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-0", "0")
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(size)))}f}"


def percent(value: float) -> str:
    """0.734 -> "73%"."""
    return f"{value:.0%}"


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "",
    y_label: str = "",
    y_low: Value = None,
    y_high: Value = None,
    reference: Value = None,
    x_format: Formatter | None = None,
    y_format: Formatter | None = None,
    smooth: bool = False,
    size: tuple[int, int] = (480, 240),
) -> Markup:
    """Several lines over one axis.

    Args:
        title: what a person would call the picture.
        series: drawn in the colours c1, c2, ...
        x_label, y_label: right below the one axis, and above the other.
        y_low, y_high: the axis reaches at least so far.
        reference: a dotted level.
        x_format, y_format: of ticks and the table; by default plain numbers.
        smooth: each value faint, and strong their running mean.
        size: width and height of the drawing in its own units; it is scaled to its place.
    """
    xs = [x for line in series for x, y in zip(line.x, line.y, strict=True) if y is not None]
    if not xs:
        return _figure(title, Markup('<p class="hint">Nothing to show yet.</p>'), [], "")
    ys = [y for line in series for values in (line.y, line.low or (), line.high or ()) for y in values if y is not None]
    ys += [bound for bound in (y_low, y_high, reference) if bound is not None]
    whole = all(x == int(x) for x in xs)
    x_axis = _tight(min(xs), max(xs), whole=whole)
    y_axis = nice_axis(min(ys), max(ys))
    frame = _Frame(x_axis, y_axis, size, _TOP + (_HEADROOM if y_label else 0))
    grid = frame.grid(x_format or _ticked(x_axis), y_format or _ticked(y_axis), x_label, y_label)
    level = "" if reference is None else frame.level(reference)
    drawn = Markup("").join(_line(frame, line, index, smooth) for index, line in enumerate(series))
    text = x_label or "x"
    x_shown, y_shown = x_format or (_ticked(x_axis) if whole else plain), y_format or plain
    said = f"{text} from {x_shown(min(xs))} to {x_shown(max(xs))}. " + " ".join(
        f"{line.name}: last value {y_shown(last)}."
        for line in series
        if (last := next((y for y in reversed(line.y) if y is not None), None)) is not None
    )
    svg = _svg(size, title, said, Markup("{}{}{}").format(grid, level, drawn))
    header, rows = _series_table(series, text, x_shown, y_shown)
    return _figure(title, svg + _legend([line.name for line in series]), header, "Numbers", rows)


def bars(
    title: str,
    entries: Sequence[Bar],
    *,
    low: float = 0.0,
    high: Value = None,
    reference: Value = None,
    format: Formatter = plain,
    width: int = 480,
) -> Markup:
    """Horizontal bars from ``low``, each with its interval as a whisker; ``reference`` is a dotted level."""
    if not entries:
        return _figure(title, Markup('<p class="hint">Nothing to show yet.</p>'), [], "")
    known = [v for bar in entries for v in (bar.value, bar.low, bar.high) if v is not None]
    known += [bound for bound in (low, high, reference) if bound is not None]
    axis = nice_axis(min(known), max(known))
    height = int(_ROW * len(entries) + 34)

    def x(value: float) -> float:
        return _LABEL + axis.share(value) * (width - _LABEL - _VALUE)

    bottom = height - 26.0
    parts = [
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="2" y2="{1}"/>').format(_n(x(t)), _n(bottom))
        for t in axis.ticks
    ]
    parts += [_text(x(tick), height - 8.0, format(tick), "middle") for tick in axis.ticks]
    if reference is not None:
        parts.append(
            Markup('<line class="level" x1="{0}" x2="{0}" y1="2" y2="{1}"/>').format(_n(x(reference)), _n(bottom))
        )
    for row, bar in enumerate(entries):
        parts += _bar(bar, _ROW * row + _ROW / 2 + 2, x, max(low, axis.low), width, format)
    said = " ".join(f"{bar.label}: {_interval(bar.value, bar.low, bar.high, format)}." for bar in entries)
    header = ["", "value", "95% interval", *(["note"] if any(bar.note for bar in entries) else [])]
    rows = [
        [bar.label, _shown(bar.value, format), _range(bar.low, bar.high, format), bar.note][: len(header)]
        for bar in entries
    ]
    return _figure(title, _svg((width, height), title, said, Markup("").join(parts)), header, "Numbers", rows)


def matrix(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[Value]],
    *,
    low: float = 0.0,
    high: float = 1.0,
    format: Formatter = percent,
) -> Markup:
    """A table of numbers with cells tinted from ``low`` (pale) to ``high`` (strong); it is its own alternative."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in columns)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            name, Markup("").join(_cell(value, low, high, format) for value in line)
        )
        for name, line in zip(rows, values, strict=True)
    )
    table = Markup(
        '<figure class="picture"><div class="wide" role="region" aria-label="{0}" tabindex="0"><table class="heat">'
        "<caption>{0}</caption><thead><tr><td></td>{1}</tr></thead><tbody>{2}</tbody></table></div></figure>"
    )
    return table.format(title, head, body)


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
        left, right, base = _n(_LEFT), _n(self.width - _RIGHT), self.height - _BOTTOM
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
        parts = [line.format(left, right, y=_n(self.y(tick))) for tick in self.y_axis.ticks]
        parts += [_text(_LEFT - 8, self.y(tick) + 4, y_format(tick), "end") for tick in self.y_axis.ticks]
        inside = [tick for tick in self.x_axis.ticks if self.x_axis.low <= tick <= self.x_axis.high]
        parts += [_text(self.x(tick), base + 17, x_format(tick), "middle") for tick in inside]
        if x_label:
            parts.append(_text(self.width - _RIGHT, self.height - 4.0, x_label, "end"))
        if y_label:
            parts.append(_text(2.0, _HEADROOM - 5, y_label, "start"))
        return Markup("").join(parts)

    def level(self, value: float) -> Markup:
        """A dotted line across."""
        line = '<line class="level" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        return Markup(line).format(_n(_LEFT), _n(self.width - _RIGHT), y=_n(self.y(value)))

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """``M x y L x y ...`` through points of the data."""
        return "M" + "L".join(f"{_n(self.x(x))} {_n(self.y(y))}" for x, y in points)


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
    return Markup('<circle class="dot c{}" cx="{}" cy="{}" r="3"/>').format(colour, _n(frame.x(x)), _n(frame.y(y)))


def _bar(bar: Bar, y: float, x: Callable[[float], float], base: float, width: int, format: Formatter) -> list[Markup]:
    parts = [_text(_LABEL - 10, y + 4, _shorten(bar.label, 16), "end")]
    if bar.value is None:
        return [*parts, _text(_LABEL + 6, y + 4, "not known yet", "start")]
    start, end = sorted((x(base), x(bar.value)))
    shape = '<rect class="bar c{}" x="{}" y="{}" width="{}" height="16" rx="3"/>'
    parts.append(Markup(shape).format(bar.colour, _n(start), _n(y - 8), _n(end - start)))
    if bar.low is not None and bar.high is not None:
        left, right = _n(x(bar.low)), _n(x(bar.high))
        path = f"M{left} {_n(y)}H{right}M{left} {_n(y - 5)}V{_n(y + 5)}M{right} {_n(y - 5)}V{_n(y + 5)}"
        parts.append(Markup('<path class="whisker" d="{}"/>').format(path))
    return [
        *parts,
        Markup('<text class="figure" x="{}" y="{}" text-anchor="end">{}</text>').format(
            width - 2, _n(y + 4), format(bar.value)
        ),
    ]


def _cell(value: Value, low: float, high: float, format: Formatter) -> Markup:
    if value is None:
        return Markup('<td class="figure none">–</td>')
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return Markup('<td class="figure h{}">{}</td>').format(round(9 * share), format(value))


def _svg(size: tuple[int, int], title: str, description: str, content: Markup) -> Markup:
    kind = "chart broad" if size[0] > BROAD else "chart"
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>').format(
        kind, *size, title, description, content
    )


def _figure(
    title: str, drawing: Markup, header: Sequence[str], summary: str, rows: Sequence[Sequence[str]] = ()
) -> Markup:
    table = Markup("")
    if rows:
        head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in header)
        body = Markup("").join(Markup("<tr>{}</tr>").format(_cells(row)) for row in rows)
        table = Markup(
            '<details class="behind"><summary>{}</summary>'
            '<div class="wide" role="region" aria-label="Numbers of {}" tabindex="0">'
            "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>"
        ).format(summary, title, head, body)
    caption = Markup("<figcaption>{}</figcaption>").format(title)
    return Markup('<figure class="picture">{}{}{}</figure>').format(caption, drawing, table)


def _cells(row: Sequence[str]) -> Markup:
    first = Markup('<th scope="row">{}</th>').format(row[0])
    return first + Markup("").join(Markup('<td class="figure">{}</td>').format(cell) for cell in row[1:])


def _legend(names: Sequence[str]) -> Markup:
    if len(names) < 2:
        return Markup("")
    swatch = '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path class="line c{}" d="M1 4H27"/></svg>'
    entries = (
        Markup("<li>{}{}</li>").format(Markup(swatch).format(index % NUM_COLOURS + 1), name)
        for index, name in enumerate(names)
    )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def _series_table(
    series: Sequence[Series], x_label: str, x_format: Formatter, y_format: Formatter
) -> tuple[list[str], list[list[str]]]:
    """One row for each x, thinned to `MOST_ROWS`."""
    at = [dict(zip(line.x, line.y, strict=True)) for line in series]
    xs = sorted({x for line in at for x in line})
    shown = [xs[index] for index in _spread(len(xs), MOST_ROWS)]
    rows = [[x_format(x), *(_shown(line.get(x), y_format) for line in at)] for x in shown]
    return [x_label, *(line.name for line in series)], rows


def _stretches(x: Sequence[float], y: Sequence[Value]) -> list[list[tuple[float, float]]]:
    """The points in runs without a gap."""
    points = [(a, b) for a, b in zip(x, y, strict=True)]
    runs = groupby(points, key=lambda point: point[1] is None)
    return [[(a, b) for a, b in run if b is not None] for missing, run in runs if not missing]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [points[index] for index in _spread(len(points), MOST_POINTS)]


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def _tight(low: float, high: float, *, whole: bool) -> Axis:
    """Round ticks, while the axis ends where the data does; a single value has its neighbours beside it."""
    if high <= low:
        return nice_axis(low - 1, high + 1, count=3, whole=whole)
    return Axis(low, high, nice_axis(low, high, count=6, whole=whole).ticks)


def _ticked(axis: Axis) -> Formatter:
    """As many decimals as the ticks differ by."""
    digits = next((d for d in range(6) if abs(axis.step * 10**d - round(axis.step * 10**d)) < 1e-6), None)
    return plain if digits is None else lambda value: f"{value:,.{digits}f}"


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(_n(x), _n(y), anchor, text)


def _interval(value: Value, low: Value, high: Value, format: Formatter) -> str:
    between = _range(low, high, format)
    return _shown(value, format) + (f" ({between})" if between else "")


def _range(low: Value, high: Value, format: Formatter) -> str:
    return "" if low is None or high is None else f"{format(low)} to {format(high)}"


def _shown(value: Value, format: Formatter) -> str:
    return "–" if value is None else format(value)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _clean(value: float) -> float:
    """Without the crumbs of binary fractions, and without a negative zero."""
    return float(f"{value:.12g}") + 0.0


def _n(value: float) -> str:
    """A coordinate: two decimals are finer than any screen."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
