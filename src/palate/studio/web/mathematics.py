r"""Formulas in what people and models write, kept from Markdown and shown as MathML.

Markdown would take the backslashes from ``\(x\)`` and make italics of the stars in ``a^{*} b^{*}``. So formulas are
taken out before Markdown sees them (`protect`), and put back afterwards: as MathML (`Formula.html`), or exactly as they
were written where they stand in code, are prose in brackets, or could not be shown without losing something.

Formulas stand in ``\(...\)``, ``\[...\]``, ``$$...$$``, ``\begin{align}...\end{align}`` and ``$...$``; the last one as
Pandoc has it, so that ``$5 and $6`` is money. A script such as ``^{*}`` outside of all these is left as it is written.

Left out: macros, numbered equations, references.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element

LONGEST = 1000
"""Characters of a formula; a longer one is shown as it is written."""

MARK = "\ufdd1"
"""Around the number of something taken out. No text may hold it: Unicode keeps it free."""

_WITHIN = rf"(?:(?!\n\s*\n)[^{MARK}]){{1,{LONGEST}}}?"
_TAKEN_OUT = re.compile(
    rf"""
    (?<!\\) \\\( (?P<round>{_WITHIN}) (?<!\\)\\\)
  | (?<!\\) \\\[ (?P<square>{_WITHIN}) (?<!\\)\\\]
  | (?<![\\$]) \$\$ (?P<dollars>{_WITHIN}) (?<!\\)\$\$
  | (?<!\\) (?P<environment>\\begin\{{(?P<name>[a-z]{{1,12}}\*?)\}} {_WITHIN} \\end\{{(?P=name)\}})
  | (?<![\\$\w]) \$ (?P<dollar>(?![\s$])[^$\n{MARK}]{{0,{LONGEST}}}?(?<![\s\\])) \$ (?![\d\w$])
  | [_^]\{{[^{{}}\n{MARK}]{{1,80}}\}}
  | \\[{{}},;:%=^\\]
    """,
    re.VERBOSE,
)
_TICKS = re.compile(r"`+|^[ ]{0,3}~~~+", re.MULTILINE)
_SIGNS = re.compile(r"[\\^_=+<>{}|/]")
_WORD = re.compile(r"[^\W\d_]{3,}")
_NUMBERED = re.compile(r"\\(begin|end)\{(align|alignat|equation|gather|multline|eqnarray)\}")
_CHARACTER = re.compile(r"&#x[0-9A-Fa-f]+;")

_CHILDREN = {"mfrac": 2, "msup": 2, "msub": 2, "munder": 2, "mover": 2, "mroot": 2, "msubsup": 3, "munderover": 3}
"""Elements of MathML that mean nothing with another number of children."""


@dataclass(frozen=True, slots=True)
class Formula:
    """Something that Markdown must not touch.

    Attributes:
        source: as it is written.
        latex: of the formula; None for what is only to be left as it is.
        is_display: in a line of its own.
    """

    source: str
    latex: str | None
    is_display: bool

    @property
    def html(self) -> str:
        """MathML, or the source."""
        shown = mathml(self.latex, self.is_display) if self.latex else None
        return shown or html.escape(self.source).replace("\n", "<br>")


@dataclass(frozen=True, slots=True)
class Protected:
    """A text with marks in the place of what was taken out of it."""

    text: str
    formulas: tuple[Formula, ...]

    def restore(self, text: str, show: Callable[[Formula], str]) -> str:
        """Put back what was taken out, wherever its marks have gone."""
        return re.sub(rf"{MARK}(\d+){MARK}", lambda found: show(self.formulas[int(found[1])]), text)


def protect(text: str) -> Protected:
    """Take out formulas and what looks like LaTeX; code is left alone."""
    formulas: list[Formula] = []
    numbers = count()

    def take(found: re.Match[str]) -> str:
        formulas.append(_formula(found))
        return f"{MARK}{next(numbers)}{MARK}"

    parts = (part if is_code else _TAKEN_OUT.sub(take, part) for part, is_code in _parts(text.replace(MARK, "\ufffd")))
    return Protected("".join(parts), tuple(formulas))


def _formula(found: re.Match[str]) -> Formula:
    kind = next((name for name in ("round", "square", "dollars", "environment", "dollar") if found[name]), None)
    latex = found[kind] if kind else None
    if latex is not None and (_is_prose(latex) or (kind == "dollar" and _is_amount(latex))):
        latex = None
    return Formula(found[0], latex, kind in {"square", "dollars", "environment"})


def _is_prose(latex: str) -> bool:
    """Words in brackets that are no formula: LaTeX would join them."""
    return not _SIGNS.search(latex) and len(_WORD.findall(latex)) > 1


def _is_amount(latex: str) -> bool:
    """Between two dollar signs: "5, not 6" is money, and "2x = 6" is a formula."""
    return latex[0].isdigit() and not re.search(r"[\\^_=]", latex)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, code and not code: between two runs of as many backticks, or two lines of tildes."""
    ticks = list(_TICKS.finditer(text))
    following: dict[str, list[int]] = {}
    for number in reversed(range(len(ticks))):
        following.setdefault(ticks[number][0].strip(), []).append(number)
    at = number = 0
    while number < len(ticks):
        same = following[ticks[number][0].strip()]
        while same and same[-1] <= number:
            same.pop()
        if not same:
            number += 1
            continue
        start, end = ticks[number].start(), ticks[same[-1]].end()
        yield text[at:start], False
        yield text[start:end], True
        at, number = end, same[-1] + 1
    yield text[at:], False


@lru_cache(maxsize=4096)
def mathml(latex: str, is_display: bool) -> str | None:
    """LaTeX as MathML; None if it cannot be read, or not without losing something."""
    latex = _NUMBERED.sub(r"\\\1{\2*}", latex)
    if re.search(r"(?<!\\)%", latex):  # the rest of the line would be a comment
        return None
    try:
        element = convert_to_element(latex, display="block" if is_display else "inline")
    except Exception:  # a parser of ten thousand commands, given whatever a model may write
        return None
    if not all(_is_whole(each) for each in element.iter()):
        return None
    for each in element.iter():  # the converter writes characters as references
        each.text = each.text and _CHARACTER.sub(lambda found: html.unescape(found[0]), each.text)
    element.set("dir", "ltr")
    return tostring(element, encoding="unicode")


def _is_whole(element: Element) -> bool:
    """Whether a browser shows all that it says."""
    is_command = element.tag != "mtext" and re.match(r"\\.", element.text or "")
    is_unboxed = element.tag == "menclose" and element.get("notation") != "box"
    return not is_command and not is_unboxed and len(element) == _CHILDREN.get(element.tag, len(element))
