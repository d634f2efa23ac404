"""The colours of numbers of either sign: orange below zero, the page's own at zero, blue above.

Orange and blue are told apart with every common kind of colour blindness, and what is below zero is underlined too. A
shade is a class, since the strict policy of the web app allows no style in the markup: the class ``kp3`` says that the
quantity ``k`` is at level 3 above zero, whichever quantity is being shown.
"""

from __future__ import annotations

from palate.evals.theme import DARK, LIGHT

LEVELS = 8
"""Of colour on either side of zero; a number nearer to zero than half of one has the page's own."""

ENDS = {"light": ("#f5983a", "#6fa5f8"), "dark": ("#9c5208", "#2f63bd")}
"""By theme: the colours of the ends, below and above zero. Text on them is the page's ink."""


def level(value: float, limit: float) -> int:
    """From ``-LEVELS`` to ``LEVELS``: where a number is on a scale that ends at ``limit``; 0 where all are 0."""
    return round(LEVELS * value / limit) if limit else 0


def shade_class(letter: str, value: float, limit: float) -> str:
    """The class of a quantity's shade; empty where it is the page's own."""
    found = level(value, limit)
    return f"{letter}{'p' if found > 0 else 'n'}{abs(found)}" if found else ""


def shades(theme: str) -> dict[str, str]:
    """``n1`` to ``n8`` and ``p1`` to ``p8``: colours from the page's own to the two ends, in even steps."""
    paper = {"light": LIGHT, "dark": DARK}[theme]["paper"]
    return {
        f"{side}{number}": _mixed(paper, end, number / LEVELS)
        for side, end in zip("np", ENDS[theme], strict=True)
        for number in range(1, LEVELS + 1)
    }


def shade_rules(parent: str, letters: str) -> str:
    """What the classes mean within ``.parent``: each sets ``--k`` to its colour, and ``--ku`` if it is underlined."""
    names = [f"{side}{number}" for side in "np" for number in range(1, LEVELS + 1)]
    rules = [
        f".{parent} .{letter}{name}{{--{letter}:var(--{name}){f';--{letter}u:solid' if name[0] == 'n' else ''}}}"
        for letter in letters
        for name in names
    ]
    dark = f"@media (prefers-color-scheme:dark){{.{parent}{{{_variables('dark')}}}}}"
    return "\n".join([f".{parent}{{{_variables('light')}}}", dark, *rules])


def contrast(one: str, other: str) -> float:
    """Of two colours, from 1 to 21, as WCAG 2.2 defines it; 4.5 is the least for text."""
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _variables(theme: str) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in shades(theme).items())


def _mixed(one: str, other: str, share: float) -> str:
    pairs = zip(_channels(one), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
