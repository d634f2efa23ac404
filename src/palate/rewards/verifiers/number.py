r"""A number that is known: sums, as in GSM8K (Cobbe et al. 2021, arXiv 2110.14168).

The answer of a text is the first number after its last ``####``, else the last number in its last ``\boxed{...}``,
else the last number in it. ``1,234.50``, ``$18``, ``50%``, ``3/4``, ``\frac{3}{4}`` and ``-5`` are read; units are not.
Numbers are compared as fractions, so 0.5, 1/2 and .50 are one and 0.333 is no third.

Left out: numbers in words, powers of ten (1e5), mixed numbers (1 1/2), a comma as the decimal point, and whether the
way to the answer is sound.
"""

from __future__ import annotations

import re
from fractions import Fraction

from palate.records import Prompt
from palate.rewards.verifiers.verdict import Verdict, known, unverifiable

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(rf"(?:(?<![\w.,)\]}}])[-\u2212])?(?:{_WHOLE}(?:\.\d+)?|(?<!\d)\.\d+)(?:/{_WHOLE}(?![\d.]))?")
_FRAC = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_MOST_DIGITS = 200
"""Of one number; longer ones are no answer to anything, and slow to compare."""


def verify_number(prompt: Prompt, response: str, *, tag: str) -> Verdict:
    """1 if the response's answer equals the one in the prompt's tag.

    Raises:
        RewardError: the prompt has no such tag, or there is no number in it.
    """
    right = answer_of(known(prompt, tag))
    if right is None:
        raise unverifiable(prompt, f"has no number in its tag {tag!r}")
    said = answer_of(response)
    if said is None:
        return Verdict(0.0, "no number")
    return Verdict(1.0, f"{said}, right") if said == right else Verdict(0.0, f"{said} instead of {right}")


def answer_of(text: str) -> Fraction | None:
    """The number that a text comes to; None if there is none where it should stand."""
    plain = _FRAC.sub(r"\1/\2", text.replace("\\$", "$").replace("$", ""))
    _, marked, after = plain.rpartition("####")
    if marked:
        return next(iter(_numbers(after)), None)
    boxed = _BOXED.findall(plain)
    numbers = _numbers(boxed[-1] if boxed else plain)
    return numbers[-1] if numbers else None


def _numbers(text: str) -> list[Fraction]:
    found = (_fraction(match.group()) for match in _NUMBER.finditer(text))
    return [number for number in found if number is not None]


def _fraction(text: str) -> Fraction | None:
    """None if it divides by zero, or is too long."""
    over, _, under = text.replace(",", "").replace("\u2212", "-").partition("/")
    if len(text) > _MOST_DIGITS or (under and not int(under)):
        return None
    return Fraction(over) / int(under or 1)
