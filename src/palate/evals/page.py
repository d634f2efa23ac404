"""A report: one page a person reads and one file of numbers a program reads.

    report = Report("PPO against SFT", "embedded model, seed 0")
    report.number("win_rate", 0.82, low=0.74, high=0.89, label="Win rate", note="by the hidden taste")
    report.figure("Reward against KL", plots.reward_against_kl(kl, reward), "How far it went, and for what.")
    report.write(directory)          # report.html and report.json

The page needs nothing but itself: pictures are SVG inside it, there is no script, and its policy forbids it to load
anything. What models and people wrote is text and stays text. The same report gives the same bytes; times and paths are
left to ``lineage.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from palate import disk
from palate.evals.credit import CREDIT_CSS, Step, credit_html
from palate.evals.theme import CSS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Report:
    """Collects numbers and parts in order; ``write`` puts them down.

    Attributes:
        numbers: what goes into ``report.json``, with ``title`` and the data.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.numbers: dict[str, Any] = {}
        self._cards: list[str] = []
        self._parts: list[str] = []
        self._styles = [CSS]

    def number(
        self,
        key: str,
        value: float | None,
        *,
        low: float | None = None,
        high: float | None = None,
        label: str = "",
        note: str = "",
    ) -> None:
        """A headline card, and ``key``, ``key_low``, ``key_high`` in the JSON; None or NaN is shown as undefined."""
        self.data(key, _finite(value))
        interval = ""
        if low is not None and high is not None:
            self.numbers |= {f"{key}_low": _finite(low), f"{key}_high": _finite(high)}
            interval = _tag("dd", f"{format_number(low)} to {format_number(high)}", "interval")
        name = label or key.replace("_", " ").capitalize()
        value_tag = _tag("dd", format_number(value), "value")
        note_tag = _tag("dd", note, "note") if note else ""
        self._cards.append(f'<div class="number">{_tag("dt", name)}{value_tag}{interval}{note_tag}</div>')

    def data(self, key: str, value: object) -> None:
        """Something for the JSON alone."""
        assert key not in self.numbers, f"the report has a number {key!r} already"
        self.numbers[key] = value

    def figure(self, title: str, svg: str, caption: str = "") -> None:
        """A picture from ``plots``; the only part that is not escaped."""
        legend = _tag("figcaption", caption) if caption else ""
        self._section(title, f'<figure><div class="wide">{svg}</div>{legend}</figure>')

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """A table; a column is set flush right if all its cells are numbers."""
        cells = [[_cell_text(cell) for cell in row] for row in rows]
        right = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
        self._section(title, _table(header, cells, right, caption))

    def side_by_side(self, title: str, rows: Sequence[Mapping[str, object]], caption: str = "") -> None:
        """Texts beside each other, one column for each key of the rows."""
        header = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_cell_text(row.get(key, "")) for key in header] for row in rows]
        right = [bool(rows) and all(_is_number(row.get(key)) for row in rows) for key in header]
        self._section(title, _table([key.replace("_", " ") for key in header], cells, right, caption, "texts"))

    def credit(self, title: str, steps: Sequence[Step]) -> None:
        """The tokens of responses, coloured by what they were credited with; all steps unfolded."""
        self._styles = [CSS, CREDIT_CSS]
        self._section(title, credit_html(steps, opened=[step for step, _ in steps]))

    def text(self, title: str, paragraph: str) -> None:
        """A paragraph, or several with empty lines between; without a title it belongs to the part before."""
        self._section(title, "".join(_tag("p", part) for part in paragraph.split("\n\n") if part.strip()))

    def html(self) -> str:
        """The whole page."""
        subtitle = _tag("p", self.subtitle, "subtitle") if self.subtitle else ""
        numbers = f'<dl class="numbers">{"".join(self._cards)}</dl>' if self._cards else ""
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            f"{_tag('title', self.title)}<style>{''.join(self._styles)}</style>"
        )
        body = "\n".join([f"<header>{_tag('h1', self.title)}{subtitle}</header>", numbers, *self._parts])
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'

    def write(self, directory: Path | str) -> None:
        """Write ``report.html`` and ``report.json``, each whole or not at all.

        Numbers that are in the directory's ``report.json`` already, from the run itself, stay unless given anew.

        Raises:
            DiskFullError, RunError: the directory cannot be written to.
        """
        directory = Path(directory)
        with disk.disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        known = read_object(directory / "report.json")
        figures = disk.json_text(known | {"title": self.title} | self.numbers, indent=2)
        disk.write_text(directory / "report.json", figures + "\n")
        disk.write_text(directory / "report.html", self.html())

    def _section(self, title: str, content: str) -> None:
        heading = _tag("h2", title) if title else ""
        self._parts.append(f"<section>{heading}{content}</section>")


def format_number(value: float | None) -> str:
    """Three significant digits, whole numbers and thousands in full."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], caption: str, style: str = ""
) -> str:
    styles = ["figure" if flush else "" for flush in right]

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(_tag(tag, cell, style) for cell, style in zip(cells, styles, strict=True))}</tr>"

    legend = _tag("caption", caption) if caption else ""
    body = "\n".join(line("td", row) for row in rows)
    return (
        f'<div class="wide"><table class="{style}">{legend}<thead>{line("th", header)}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _tag(name: str, text: str, style: str = "") -> str:
    attribute = f' class="{style}"' if style else ""
    return f"<{name}{attribute}>{escape(text)}</{name}>"


def _cell_text(value: object) -> str:
    if value is None or isinstance(value, float):
        return format_number(value)
    return str(value)


def _is_number(value: object) -> bool:
    """Numbers, and texts that read as one, so that a caller may choose the digits."""
    if value is None:
        return True
    try:
        float(str(value).rstrip("%").replace(",", ""))
    except ValueError:
        return False
    return True


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is missing or is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
