"""How gold reward depends on the distance gone while another reward is optimised: the forms of Gao et al. 2022.

With d the root of the KL to where optimisation began, and the gold reward counted from what it was there,

    best of n                  R(d) = d (alpha - beta d)         highest at d = alpha / (2 beta)
    reinforcement learning     R(d) = d (alpha - beta log d)     highest at d = exp(alpha / beta - 1)

(arXiv 2210.10760, section 3.1). Both are linear in alpha and beta, so least squares has one answer. Left out: how alpha
and beta depend on the size of the reward model, for which one size is not enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.intervals import Estimate, bootstrap

Floats = NDArray[np.float64]
Form = Literal["best of n", "rl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """Of one form, fitted."""

    form: Form
    alpha: float
    beta: float

    def __call__(self, d: ArrayLike) -> Floats:
        """R at distances d of any shape; 0 at 0."""
        x = np.asarray(d, dtype=np.float64)
        found: Floats = self.alpha * x - self.beta * _bend(self.form, x)
        return found

    @property
    def peak(self) -> float | None:
        """The distance beyond which more optimisation does harm; None if there is none."""
        if self.alpha <= 0 and self.form == "best of n":
            return None
        if self.beta <= 0:
            return None
        if self.form == "best of n":
            return self.alpha / (2 * self.beta)
        exponent = self.alpha / self.beta - 1
        return math.exp(exponent) if exponent < 700 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients with intervals by prompt, and where the peak is, in d and in nats.

    Attributes:
        farthest: the largest distance that was measured; a peak beyond it is a guess of the form's.
    """

    coefficients: Coefficients
    alpha: Estimate
    beta: Estimate
    peak: Estimate
    farthest: float

    @property
    def reached(self) -> bool:
        """Whether the peak was passed."""
        return self.peak.value is not None and self.peak.value <= self.farthest


def fit(form: Form, d: ArrayLike, rewards: ArrayLike) -> Coefficients | None:
    """Least squares through distances and rewards [S]; None of fewer than two distances above zero."""
    x, y = np.asarray(d, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    design = np.stack([x, -_bend(form, x)], axis=1)
    if len(np.unique(x[x > 0])) < 2:
        return None
    (alpha, beta), _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return Coefficients(form=form, alpha=float(alpha), beta=float(beta)) if rank == 2 else None


def fit_with_intervals(form: Form, d: ArrayLike, rewards: ArrayLike, *, seed: int, resamples: int = 500) -> Fit | None:
    """The same from what was measured by prompt: drawn again are prompts, for distance and reward together.

    Args:
        d: [S, P] KL by prompt at each stop, averaged before its root is taken; or [S] distances that are known.
        rewards: [S, P] gold reward by prompt, counted from the beginning.
        seed: of the bootstrap.
    """
    known, y = np.asarray(d, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    num_prompts = y.shape[1]

    def refitted(weights: Floats) -> Coefficients | None:
        share = weights / weights.sum()
        x = np.sqrt(np.maximum(known @ share, 0.0)) if known.ndim == 2 else known
        return fit(form, x, y @ share)

    whole = refitted(np.ones(num_prompts))
    if whole is None:
        return None

    def interval(of: Callable[[Coefficients], float | None]) -> Estimate:
        def statistic(weights: Floats) -> float | None:
            found = refitted(weights)
            return None if found is None else of(found)

        return bootstrap(statistic, num_prompts, seed=seed, resamples=resamples)

    return Fit(
        coefficients=whole,
        alpha=interval(lambda found: found.alpha),
        beta=interval(lambda found: found.beta),
        peak=interval(lambda found: found.peak),
        farthest=float(np.max(np.sqrt(np.maximum(known.mean(1), 0.0)) if known.ndim == 2 else known)),
    )


def _bend(form: Form, x: Floats) -> Floats:
    """What beta takes away: d squared, or d log d."""
    if form == "best of n":
        return x * x
    found: Floats = x * np.log(np.where(x > 0, x, 1.0))
    return found
