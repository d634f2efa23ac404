"""Horizontal bars with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from palate.studio.web.charts.axes import ANY, Formatter, Range, Value, nice_axis, plain
from palate.studio.web.charts.figure import NOTHING, coordinate, figure, interval, label, sheet, span, written

_ROW, _LABEL, _VALUE = 30.0, 132.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One horizontal bar; ``low`` and ``high`` make a whisker, ``note`` stands in the table."""

    label: str
    value: Value
    low: Value = None
    high: Value = None
    note: str = ""
    colour: int = 1


def bars(
    title: str,
    entries: Sequence[Bar],
    *,
    low: float = 0.0,
    high: Value = None,
    reference: Value = None,
    within: Range = ANY,
    format: Formatter = plain,
    width: int = 480,
) -> Markup:
    """Horizontal bars from ``low``, each with its interval as a whisker; ``reference`` is a dotted level.

    Values cannot be outside of ``within``, and the axis shows no more.
    """
    if not entries:
        return figure(title, NOTHING, [], "")
    known = [v for bar in entries for v in (bar.value, bar.low, bar.high) if v is not None]
    known += [bound for bound in (low, high, reference) if bound is not None]
    axis = nice_axis(min(known), max(known), within=within)
    height = int(_ROW * len(entries) + 34)

    def x(value: float) -> float:
        return _LABEL + axis.share(value) * (width - _LABEL - _VALUE)

    bottom = height - 26.0
    parts = [
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="2" y2="{1}"/>').format(coordinate(x(t)), coordinate(bottom))
        for t in axis.ticks
    ]
    parts += [label(x(tick), height - 8.0, format(tick), "middle") for tick in axis.ticks]
    if reference is not None:
        parts.append(
            Markup('<line class="level" x1="{0}" x2="{0}" y1="2" y2="{1}"/>').format(
                coordinate(x(reference)), coordinate(bottom)
            )
        )
    for row, bar in enumerate(entries):
        parts += _bar(bar, _ROW * row + _ROW / 2 + 2, x, max(low, axis.low), width, format)
    said = " ".join(f"{bar.label}: {interval(bar.value, bar.low, bar.high, format)}." for bar in entries)
    header = ["", "value", "95% interval", *(["note"] if any(bar.note for bar in entries) else [])]
    rows = [
        [bar.label, written(bar.value, format), span(bar.low, bar.high, format), bar.note][: len(header)]
        for bar in entries
    ]
    return figure(title, sheet((width, height), title, said, Markup("").join(parts)), header, "Numbers", rows)


def _bar(bar: Bar, y: float, x: Callable[[float], float], base: float, width: int, format: Formatter) -> list[Markup]:
    parts = [label(_LABEL - 10, y + 4, _shorten(bar.label, 16), "end")]
    if bar.value is None:
        return [*parts, label(_LABEL + 6, y + 4, "not known yet", "start")]
    start, end = sorted((x(base), x(bar.value)))
    shape = '<rect class="bar c{}" x="{}" y="{}" width="{}" height="16" rx="3"/>'
    parts.append(Markup(shape).format(bar.colour, coordinate(start), coordinate(y - 8), coordinate(end - start)))
    if bar.low is not None and bar.high is not None:
        left, right = coordinate(x(bar.low)), coordinate(x(bar.high))
        line, above, below = coordinate(y), coordinate(y - 5), coordinate(y + 5)
        path = f"M{left} {line}H{right}M{left} {above}V{below}M{right} {above}V{below}"
        parts.append(Markup('<path class="whisker" d="{}"/>').format(path))
    return [
        *parts,
        Markup('<text class="figure" x="{}" y="{}" text-anchor="end">{}</text>').format(
            width - 2, coordinate(y + 4), format(bar.value)
        ),
    ]


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
