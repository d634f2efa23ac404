"""What every picture has: a drawing with title and description, a legend, and its numbers as a table to be unfolded."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from palate.studio.web.charts.axes import Formatter, Value

NUM_COLOURS = 6
BROAD = 560
"""A drawing wider than this takes all the width there is; others stay at the size of the text around them."""

NOTHING = Markup('<p class="hint">Nothing to show yet.</p>')


def figure(
    title: str, drawing: Markup, header: Sequence[str], summary: str, rows: Sequence[Sequence[str]] = ()
) -> Markup:
    """Caption, drawing, and below them the numbers behind a ``summary``; without rows there is no table."""
    table = Markup("")
    if rows:
        head = Markup("").join(Markup('<th scope="col" dir="auto">{}</th>').format(name) for name in header)
        body = Markup("").join(Markup("<tr>{}</tr>").format(_cells(row)) for row in rows)
        table = Markup(
            '<details class="behind"><summary>{}</summary>'
            '<div class="wide" role="region" aria-label="Numbers of {}" tabindex="0">'
            "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>"
        ).format(summary, title, head, body)
    caption = Markup("<figcaption>{}</figcaption>").format(title)
    return Markup('<figure class="picture">{}{}{}</figure>').format(caption, drawing, table)


def _cells(row: Sequence[str]) -> Markup:
    first = Markup('<th scope="row" dir="auto">{}</th>').format(row[0])
    return first + Markup("").join(Markup('<td class="figure">{}</td>').format(cell) for cell in row[1:])


def sheet(size: tuple[int, int], title: str, description: str, content: Markup) -> Markup:
    """The SVG element; title and description are for those who do not see it."""
    kind = "chart broad" if size[0] > BROAD else "chart"
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>').format(
        kind, *size, title, description, content
    )


def legend(names: Sequence[str]) -> Markup:
    """A swatch and a name for each series; nothing for a single one."""
    if len(names) < 2:
        return Markup("")
    swatch = '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path class="line c{}" d="M1 4H27"/></svg>'
    entries = (
        Markup('<li dir="auto">{}{}</li>').format(Markup(swatch).format(index % NUM_COLOURS + 1), name)
        for index, name in enumerate(names)
    )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def label(x: float, y: float, text: str, anchor: str) -> Markup:
    """A text in a drawing."""
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(coordinate(x), coordinate(y), anchor, text)


def interval(value: Value, low: Value, high: Value, format: Formatter) -> str:
    """ "0.6 (0.5 to 0.7)"."""
    between = span(low, high, format)
    return written(value, format) + (f" ({between})" if between else "")


def span(low: Value, high: Value, format: Formatter) -> str:
    """ "0.5 to 0.7"; empty where an end is not known."""
    return "" if low is None or high is None else f"{format(low)} to {format(high)}"


def written(value: Value, format: Formatter) -> str:
    """A value, or a dash where there is none."""
    return "–" if value is None else format(value)


def coordinate(value: float) -> str:
    """A coordinate: two decimals are finer than any screen."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
