"""Pictures of numbers, drawn on the server as SVG that our strict policy for pages allows.

    {{ charts.lines("Score", [Series(name="score", x=steps, y=scores)], x_label="step", smooth=True) }}

Every function returns one ``<figure>``: the drawing, with a title and a description for those who do not see it, a
legend where there are several series, and the numbers themselves as a table to be unfolded. Colours are the classes
``c1`` to ``c6`` of ``static/web/charts.css``, which a page with charts includes; each has a dash pattern of its own, so
that nothing depends on colour. There are no inline styles and no ids.

Reports are drawn by `evals/plots.py` with matplotlib instead: sixty times as slow a picture, and its inline styles are
what our content policy forbids. Both take their colours from one palette (`evals/theme.py`).

Left out: logarithmic axes, and anything that moves.
"""

from palate.studio.web.charts.axes import ANY, COUNT, SHARE, Axis, Formatter, Range, Value, nice_axis, percent, plain
from palate.studio.web.charts.bars import Bar, bars
from palate.studio.web.charts.curves import MOST_POINTS, MOST_ROWS, Series, lines, running_mean
from palate.studio.web.charts.figure import NUM_COLOURS
from palate.studio.web.charts.matrix import matrix

__all__ = [
    "ANY",
    "COUNT",
    "MOST_POINTS",
    "MOST_ROWS",
    "NUM_COLOURS",
    "SHARE",
    "Axis",
    "Bar",
    "Formatter",
    "Range",
    "Series",
    "Value",
    "bars",
    "lines",
    "matrix",
    "nice_axis",
    "percent",
    "plain",
    "running_mean",
]
