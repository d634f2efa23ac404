"""Estimates as data and as people read them."""

from __future__ import annotations

import time

from pydantic import BaseModel

from palate.intervals import Estimate


class EstimateOut(BaseModel):
    """A number with its 95% interval; each is null where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: Estimate) -> EstimateOut:
        """From our own."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high)


def percent(estimate: Estimate | EstimateOut) -> str:
    """0.734 (0.7 to 0.77) -> "73% (70–77)"."""
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return share(estimate.value)
    return f"{share(estimate.value)} ({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"


def coefficient(estimate: Estimate | EstimateOut) -> str:
    """0.468 -> "0.47"."""
    return "–" if estimate.value is None else f"{estimate.value:.2f}"


def interval(estimate: Estimate | EstimateOut) -> str:
    """0.4 to 0.52 -> "0.40 to 0.52"; empty where there is none."""
    return "" if estimate.low is None or estimate.high is None else f"{estimate.low:.2f} to {estimate.high:.2f}"


def share(value: float | None) -> str:
    """0.734 -> "73%"."""
    return "–" if value is None else f"{value:.0%}"


def points(value: float) -> str:
    """A difference of two shares: 0.12 -> "+12", in percentage points."""
    return f"{100 * value:+.0f}".replace("-", "\N{MINUS SIGN}")


def day_label(number: float) -> str:
    """A day counted from 1970 as "21 May"."""
    at = time.gmtime(number * 86400)
    return f"{at.tm_mday} {time.strftime('%b', at)}"
