"""How often a model's response beats the baseline's: the number that says whether training helped.

Every response of the model meets every response of the baseline to the same prompt; a tie is half a win. The interval
is by prompt (`intervals.py`), because responses to one prompt resemble each other.

``win_rate_by_length`` says where it was won: among shorter responses, among those of like length, among longer ones.
``length_controlled`` answers "and if both were equally long?": a logistic regression of winning on the difference in
words, read where the difference is zero (the idea of Dubois et al. 2024, length-controlled AlpacaEval, without their
terms for the model and the difficulty of each instruction). ``both_orders`` takes the position out of a judge that sees
two responses side by side. Sampling the responses is not done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.errors import DataError
from palate.intervals import Estimate, Floats, bootstrap, ratio_estimate
from palate.records import Prompt

_BIN_STARTS = (-30, -14, -6, -2, 3, 7, 15, 31)
"""Words more than the baseline's, with which the bins but the first begin: within 2, 3 to 6, 7 to 14, 15 to 30, 31+."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """Share of won comparisons, ties counting half, with its 95% interval.

    Attributes:
        low, high: undefined with fewer than two prompts.
        wins, ties, losses: comparisons; together num_prompts times responses of the model times those of the baseline.
    """

    rate: float
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int
    num_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBin:
    """Comparisons in which the model's response has from ``low`` to ``high`` words more than the baseline's.

    Attributes:
        low, high: below 0 it is the shorter one; None: no end on that side.
        rate: ties counting half, with its interval by prompt.
    """

    low: int | None
    high: int | None
    rate: Estimate
    num_pairs: int

    @property
    def label(self) -> str:
        """As it stands under a picture."""
        if self.low is None or self.high is None:
            nearest, side = (self.high, "shorter") if self.low is None else (self.low, "longer")
            return f"{abs(nearest or 0)}+ words\n{side}"
        if self.low < 0 < self.high:
            return f"within\n{self.high} words"
        near, far = sorted((abs(self.low), abs(self.high)))
        return f"{near} to {far}\n{'shorter' if self.high < 0 else 'longer'}"


class PairJudge(Protocol):
    """Sees two responses to each prompt and says how far it prefers the first: above 0, below 0, or 0 for a tie."""

    def __call__(self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str], /) -> ArrayLike:
        """[B] preferences for the first."""
        ...


@dataclass(frozen=True, slots=True)
class BothOrders:
    """Verdicts of a pair judge that saw every pair both ways round.

    Attributes:
        outcomes: [B] 1 where a wins, 0 where b does, one half for a tie or where the two orders disagree.
        num_disagreements: pairs whose verdict was turned round, or came and went, with the order.
        first_share: how often, when it preferred either, the judge preferred what it saw first; one half is unbiased.
    """

    outcomes: Floats
    num_disagreements: int
    first_share: float | None


def win_rate(scores_model: ArrayLike, scores_baseline: ArrayLike, *, seed: int, tie_margin: float = 0.0) -> WinRate:
    """Win rate from a judge's scores, [P, M] for the model and [P, N] for the baseline.

    Raises:
        DataError: no prompts, different prompts, or a score that is not finite.
    """
    return win_rate_of_outcomes(compare_each(scores_model, scores_baseline, tie_margin), seed=seed)


def compare_each(scores_model: ArrayLike, scores_baseline: ArrayLike, tie_margin: float = 0.0) -> Floats:
    """[P, M, N] every response of the model against every one of the baseline: 1 won, 0 lost, one half tied.

    Raises:
        DataError: as of `win_rate`.
    """
    differences = _against_each(scores_model, scores_baseline)
    if not np.isfinite(differences).all():
        raise DataError("the judge returned a score that is not finite")
    return np.where(np.abs(differences) <= tie_margin, 0.5, (differences > 0).astype(np.float64))


def win_rate_of_outcomes(outcomes: ArrayLike, *, seed: int) -> WinRate:
    """Win rate from verdicts that are there already: [P, ...] of 1 won, 0 lost, one half tied."""
    verdicts = np.asarray(outcomes, dtype=np.float64)
    if not verdicts.size:
        raise DataError("there is no prompt to compare on; check the prompts' path and holdout")
    flat = verdicts.reshape(len(verdicts), -1)
    estimate = ratio_estimate(flat.mean(axis=1), np.ones(len(flat)), seed=seed, share=True)
    assert estimate.value is not None
    return WinRate(
        rate=estimate.value,
        low=estimate.low,
        high=estimate.high,
        wins=int((flat == 1).sum()),
        ties=int((flat == 0.5).sum()),
        losses=int((flat == 0).sum()),
        num_prompts=len(flat),
    )


def win_rate_by_length(
    scores_model: ArrayLike,
    scores_baseline: ArrayLike,
    words_model: ArrayLike,
    words_baseline: ArrayLike,
    *,
    seed: int,
) -> tuple[LengthBin, ...]:
    """The win rate among comparisons of like difference in words, the shortest first; shapes as in ``win_rate``.

    Each bin is about twice as wide as its neighbour nearer to zero; empty ones are left out.
    """
    outcomes = compare_each(scores_model, scores_baseline, 0.0)
    differences = _against_each(words_model, words_baseline)
    if differences.shape != outcomes.shape:
        raise DataError("there must be one number of words for each score")
    axes, bins = (1, 2), []
    for low, high in zip([None, *_BIN_STARTS], [start - 1 for start in _BIN_STARTS] + [None], strict=True):
        inside = np.ones(differences.shape, dtype=bool)
        inside &= differences >= (-np.inf if low is None else low)
        inside &= differences <= (np.inf if high is None else high)
        if inside.any():
            won, pairs = (outcomes * inside).sum(axes), inside.sum(axes)
            rate = ratio_estimate(won, pairs, seed=seed, share=True)
            bins.append(LengthBin(low=low, high=high, rate=rate, num_pairs=int(pairs.sum())))
    return tuple(bins)


def length_controlled(
    scores_model: ArrayLike,
    scores_baseline: ArrayLike,
    words_model: ArrayLike,
    words_baseline: ArrayLike,
    *,
    seed: int,
    tie_margin: float = 0.0,
    resamples: int = 500,
) -> Estimate:
    """The win rate to expect if both were equally long; shapes as in ``win_rate``, words with the scores.

    See `length_controlled_of_outcomes`.
    """
    outcomes = compare_each(scores_model, scores_baseline, tie_margin)
    differences = _against_each(words_model, words_baseline)
    return length_controlled_of_outcomes(outcomes, differences, seed=seed, resamples=resamples)


def length_controlled_of_outcomes(
    outcomes: ArrayLike, differences: ArrayLike, *, seed: int, resamples: int = 500
) -> Estimate:
    """The same from verdicts that are there already: [P, ...] from 0 to 1, and [P, ...] words more than the baseline.

    ``logit P(win) = a + b x`` with x the difference in words over its spread; the rate is sigmoid(a). A slight pull of
    b to zero (a unit normal prior) keeps the fit finite when length and winning go together without exception; then
    the interval is wide, as it should be.
    """
    verdicts, words = np.asarray(outcomes, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    if words.shape != verdicts.shape:
        raise DataError("there must be one number of words for each score")
    x = words / (float(np.sqrt((words**2).mean())) or 1.0)
    each = verdicts[0].size

    def rate_at_equal_length(counts: Floats) -> float:
        return _sigmoid_at_zero(x.ravel(), verdicts.ravel(), np.repeat(counts / each, each))

    return bootstrap(rate_at_equal_length, len(verdicts), seed=seed, resamples=resamples, share=True)


def both_orders(judge: PairJudge, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str]) -> BothOrders:
    """Ask a pair judge twice, with the places swapped; only a verdict that survives the swap counts."""
    a_first = np.sign(np.asarray(judge(prompts, a, b), dtype=np.float64))
    b_first = np.sign(np.asarray(judge(prompts, b, a), dtype=np.float64))
    if not a_first.shape == b_first.shape == (len(prompts),):
        raise DataError("a pair judge must return one preference per prompt")
    if not (np.isfinite(a_first).all() and np.isfinite(b_first).all()):
        raise DataError("the pair judge returned a preference that is not a number")
    steady = a_first == -b_first
    verdicts = np.concatenate([a_first, b_first])
    decided = verdicts[verdicts != 0]
    return BothOrders(
        outcomes=np.where(steady, (1 + a_first) / 2, 0.5),
        num_disagreements=int((~steady).sum()),
        first_share=float((decided > 0).mean()) if len(decided) else None,
    )


def _against_each(model: ArrayLike, baseline: ArrayLike) -> Floats:
    """[P, M] and [P, N] to [P, M, N]: every entry of the model minus every one of the baseline."""
    ours, theirs = np.asarray(model, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.ndim != 2 or theirs.ndim != 2 or len(ours) != len(theirs):
        raise DataError(f"expected a row for each prompt from both models, got shapes {ours.shape} and {theirs.shape}")
    if not ours.size or not theirs.size:
        raise DataError("there is no prompt to compare on; check the prompts' path and holdout")
    return ours[:, :, None] - theirs[:, None, :]


def _sigmoid_at_zero(x: Floats, y: Floats, weights: Floats) -> float:
    """Newton's method for a weighted logistic regression, y in [0, 1]; the intercept's curvature is kept above zero."""
    design = np.stack([np.ones_like(x), x], axis=1)
    prior: NDArray[np.float64] = np.diag([1e-6, 1.0])
    theta = np.zeros(2)
    for _ in range(50):
        probability = _sigmoid(design @ theta)
        gradient = design.T @ (weights * (y - probability)) - prior @ theta
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + prior
        step = np.linalg.solve(curvature, gradient)
        theta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return float(_sigmoid(theta)[0])


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(x / 2))
