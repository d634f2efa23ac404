"""Is a reward model right, and does it know how sure it is?

A margin is the reward of the preferred response minus that of the other. The Bradley-Terry model claims that people
prefer the first with probability sigmoid(margin). Nothing distinguishes the two sides of a pair, so the reliability
diagram is folded: the model's favourite is held with confidence sigmoid(|margin|), from 1/2 to 1, and it was right if
the margin is positive. An accuracy means little without "the longer one wins" next to it (``longer_wins``) and without
the labelers' own agreement.

Expected calibration error: Guo et al. 2017; the bins are of equal width, empty ones are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.errors import DataError
from palate.intervals import Estimate, Floats, ratio_estimate
from palate.words import count_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs of similar confidence: what was claimed and what was so, with its interval by prompt."""

    low: float
    high: float
    predicted: float
    observed: Estimate
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Reliability of the Bradley-Terry probabilities.

    Attributes:
        error: expected calibration error, the mean distance of predicted and observed over pairs.
        log_loss: mean of -log sigmoid(margin), in nats; log 2 = 0.693 is a coin. Both are None without pairs.
    """

    bins: tuple[Bin, ...]
    error: float | None
    log_loss: float | None
    num_pairs: int


def calibration(margins: ArrayLike, prompt_ids: Sequence[str], *, seed: int, num_bins: int = 10) -> Calibration:
    """Reliability bins, expected calibration error and log loss of margins [N]; a margin of 0 is half right.

    Pairs of one prompt share responses: they are no independent evidence, in a bin as little as over all.
    """
    margin = _margins(margins)
    prompts = _numbered(prompt_ids, margin)
    if not len(margin):
        return Calibration(bins=(), error=None, log_loss=None, num_pairs=0)
    confidence = 0.5 * (1 + np.tanh(np.abs(margin) / 2))
    bins = reliability(confidence, _right(margin), prompts, low=0.5, num_bins=num_bins, seed=seed)
    log_loss = float(np.logaddexp(0, -margin).mean())
    return Calibration(bins=bins, error=expected_error(bins), log_loss=log_loss, num_pairs=len(margin))


def reliability(
    confidence: ArrayLike,
    right: ArrayLike,
    prompts: NDArray[np.int64],
    *,
    seed: int,
    low: float = 0.0,
    num_bins: int = 10,
) -> tuple[Bin, ...]:
    """What was claimed and what was so, in bins of equal width from ``low`` to 1; empty ones are left out.

    Args:
        confidence: [N] how likely each is said to be right.
        right: [N] whether it was; 1/2 is half.
        prompts: [N] numbers of the prompts, by which intervals are.
    """
    sure, was = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    edges = np.linspace(low, 1, num_bins + 1)
    index = np.clip(np.digitize(sure, edges) - 1, 0, num_bins - 1)
    return tuple(
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            predicted=float(sure[index == i].mean()),
            observed=_share_right(was[index == i], prompts[index == i], seed),
            count=int((index == i).sum()),
        )
        for i in np.unique(index)
    )


def expected_error(bins: Sequence[Bin]) -> float | None:
    """Expected calibration error: the mean distance of what was claimed and what was so."""
    count = sum(item.count for item in bins)
    distances = [item.count * abs(item.predicted - (item.observed.value or 0.0)) for item in bins]
    return sum(distances) / count if count else None


def accuracy(margins: ArrayLike, prompt_ids: Sequence[str], *, seed: int) -> Estimate:
    """Share of pairs [N] with a positive margin, 0 counting half, and its interval by prompt."""
    margin = _margins(margins)
    return _share_right(_right(margin), _numbered(prompt_ids, margin), seed)


def longer_wins(pairs: Sequence[tuple[str, str]], prompt_ids: Sequence[str], *, seed: int) -> Estimate:
    """Accuracy of preferring the response with more words, for (preferred, other) texts."""
    return accuracy([count_words(better) - count_words(worse) for better, worse in pairs], prompt_ids, seed=seed)


def _margins(margins: ArrayLike) -> Floats:
    margin = np.asarray(margins, dtype=np.float64)
    assert margin.ndim == 1, f"one margin for each pair, not {margin.shape}"
    if not np.isfinite(margin).all():
        raise DataError("the reward model gave a reward that is not finite")
    return margin


def _numbered(prompt_ids: Sequence[str], margin: Floats) -> NDArray[np.int64]:
    """[N] the prompts of the margins as numbers."""
    assert len(prompt_ids) == len(margin), f"{len(margin)} margins but {len(prompt_ids)} prompt ids"
    return np.unique(np.asarray(prompt_ids, dtype=np.str_), return_inverse=True)[1]


def _share_right(right: Floats, prompts: NDArray[np.int64], seed: int) -> Estimate:
    return ratio_estimate(np.bincount(prompts, weights=right), np.bincount(prompts), seed=seed, share=True)


def _right(margin: Floats) -> Floats:
    return (np.sign(margin) + 1) / 2
