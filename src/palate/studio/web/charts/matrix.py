"""A table of numbers whose cells are tinted."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from palate.studio.web.charts.axes import Formatter, Value, percent


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
    head = Markup("").join(Markup('<th scope="col" dir="auto">{}</th>').format(name) for name in columns)
    body = Markup("").join(
        Markup('<tr><th scope="row" dir="auto">{}</th>{}</tr>').format(
            name, Markup("").join(_cell(value, low, high, format) for value in line)
        )
        for name, line in zip(rows, values, strict=True)
    )
    table = Markup(
        '<figure class="picture"><div class="wide" role="region" aria-label="{0}" tabindex="0"><table class="heat">'
        "<caption>{0}</caption><thead><tr><td></td>{1}</tr></thead><tbody>{2}</tbody></table></div></figure>"
    )
    return table.format(title, head, body)


def _cell(value: Value, low: float, high: float, format: Formatter) -> Markup:
    if value is None:
        return Markup('<td class="figure none">–</td>')
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return Markup('<td class="figure h{}">{}</td>').format(round(9 * share), format(value))
