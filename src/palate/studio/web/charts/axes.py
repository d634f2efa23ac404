"""Axes: round ticks around the data, and how numbers are written on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Formatter = Callable[[float], str]
Value = float | None
Range = tuple[float, float]

ANY: Range = (-math.inf, math.inf)
COUNT: Range = (0.0, math.inf)
SHARE: Range = (0.0, 1.0)
"""What values can be at all: an axis never shows more than that."""


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
        """Where a value lies: 0 at the low end, 1 at the high one, and nowhere beyond them."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def nice_axis(low: float, high: float, *, count: int = 5, whole: bool = False, within: Range = ANY) -> Axis:
    """About ``count`` ticks at multiples of 1, 2, 2.5 or 5 times a power of ten, the first and last around the data.

    Args:
        low, high: of the data; a single value gets some room around it.
        count: ticks wanted.
        whole: only at whole numbers.
        within: what values can be; what lies outside, such as the end of an interval, is cut off.
    """
    low, high = (min(max(value, within[0]), within[1]) for value in (low, high))
    if high <= low:
        room = abs(low) / 10 or 0.5
        low, high = max(low - room, within[0]), min(high + room, within[1])
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step - 1e-9)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(_clean(index * step) for index in range(first, max(last, first + 1) + 1))
    ticks = tuple(tick for tick in ticks if within[0] <= tick <= within[1])
    return Axis(ticks[0], ticks[-1], ticks)


def tight_axis(low: float, high: float, *, whole: bool) -> Axis:
    """Round ticks, while the axis ends where the data does, which are two different values at least."""
    assert low < high
    return Axis(low, high, nice_axis(low, high, count=6, whole=whole).ticks)


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


def whole_number(value: float) -> str:
    """1234.0 -> "1,234"."""
    return f"{value:,.0f}"


def ticked(axis: Axis) -> Formatter:
    """As many decimals as the ticks differ by."""
    digits = next((d for d in range(6) if abs(axis.step * 10**d - round(axis.step * 10**d)) < 1e-6), None)
    return plain if digits is None else lambda value: f"{value:,.{digits}f}"


def _clean(value: float) -> float:
    """Without the crumbs of binary fractions, and without a negative zero."""
    return float(f"{value:.12g}") + 0.0
