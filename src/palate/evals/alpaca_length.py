"""The win rate at equal length as alpaca_eval has it (Dubois et al. 2024, arXiv 2404.04475): its model, and its fit.

    P(win) = sigmoid(a tanh(d / s) + b difficulty + c)

``d`` is how many characters the baseline's response is longer, ``s`` the standard deviation of that; there is no
intercept but the model's own term ``c``. Fitted by logistic regression with a lasso, whose strength is chosen among ten
by the likelihood in five folds of whole prompts; the rate is the mean of what the fit foretells at ``d = 0``.

As in its version 0.6.6 (`metrics/glm_winrate.py`), `length_controlled_noreg`, or without difficulties
`length_controlled_minimal`. Left out: its regularisation to a baseline that was told to be short or long, which hangs
on answers that come with its own prompts; so do its difficulties, of which there are none for prompts of one's own.
`evals/winrate.py` has the simpler reading, in words and with half a prior.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from palate.errors import DataError
from palate.intervals import Estimate, Floats, bootstrap

STRENGTHS = np.logspace(-4, 4, 10)
"""Inverse strengths of the lasso that are tried."""
FOLDS = 5
_TOLERANCE = 1e-9


def alpaca_length_controlled(
    outcomes: ArrayLike,
    more_characters: ArrayLike,
    prompts: ArrayLike,
    *,
    seed: int,
    difficulty: ArrayLike | None = None,
    resamples: int = 300,
) -> Estimate:
    """The rate and its interval by prompt; the strength of the lasso is chosen once, from all prompts.

    Undefined where every response is longer by the same: then nothing tells length from the model.

    Args:
        outcomes: [N] of comparisons, from 0 to 1 for the model.
        more_characters: [N] of the model's response than of the baseline's.
        prompts: [N] numbers of their prompts, from 0.
        difficulty: [N] of the instructions, if it is known.

    Raises:
        DataError: fewer prompts than folds.
    """
    won, design = np.asarray(outcomes, dtype=np.float64), features(more_characters, difficulty)
    prompt = np.asarray(prompts, dtype=np.int64)
    num_prompts = int(prompt.max()) + 1 if len(prompt) else 0
    if num_prompts < FOLDS:
        raise DataError(f"{num_prompts} prompts are fewer than the {FOLDS} folds that alpaca_eval's model is fitted in")
    if np.ptp(design[:, 0]) == 0 and design[0, 0] != 0:
        return Estimate(None)
    strength = chosen_strength(design, won, (num_prompts - 1 - prompt) % FOLDS)

    def rate(counts: Floats) -> float:
        weights = counts[prompt]
        fitted = lasso_logistic(design, won, strength, weights)
        return float(weights @ at_equal_length(design, fitted) / weights.sum())

    return bootstrap(rate, num_prompts, seed=seed, resamples=resamples, share=True)


def features(more_characters: ArrayLike, difficulty: ArrayLike | None = None) -> Floats:
    """[N, 2 or 3]: length, difficulty if it is known, model."""
    shorter = -np.asarray(more_characters, dtype=np.float64)
    spread = float(shorter.std(ddof=1)) if len(shorter) > 1 else 0.0
    columns = [np.tanh(shorter / (spread or 1.0))]
    columns += [] if difficulty is None else [np.asarray(difficulty, dtype=np.float64)]
    return np.stack([*columns, np.ones(len(shorter))], axis=1)


def at_equal_length(design: Floats, fitted: Floats) -> Floats:
    """[N] what the fit foretells if both were equally long."""
    return _sigmoid(design[:, 1:] @ fitted[1:])


def chosen_strength(design: Floats, won: Floats, folds: NDArray[np.int64]) -> float:
    """Of all strengths the one under which the folds that were left out are likeliest; the smallest of equals."""
    scores = np.zeros(len(STRENGTHS))
    for fold in range(FOLDS):
        out = folds == fold
        for number, strength in enumerate(STRENGTHS):
            fitted = lasso_logistic(design[~out], won[~out], float(strength), np.ones(int((~out).sum())))
            probability = np.clip(_sigmoid(design[out] @ fitted), 1e-15, 1 - 1e-15)
            scores[number] += float(np.mean(won[out] * np.log(probability) + (1 - won[out]) * np.log(1 - probability)))
    return float(STRENGTHS[int(scores.argmax())])


def lasso_logistic(design: Floats, won: Floats, strength: float, weights: Floats) -> Floats:
    """[F] the minimum of ``|theta|_1 - strength sum(weights log-likelihood)``, by proximal Newton steps.

    Args:
        design: [N, F].
        won: [N] from 0 to 1.
        weights: [N].
    """
    theta = np.zeros(design.shape[1])
    value = _objective(design, won, strength, weights, theta)
    for _ in range(100):
        probability = _sigmoid(design @ theta)
        gradient = strength * design.T @ (weights * (probability - won))
        slope = strength * weights * probability * (1 - probability)
        curvature = (design * slope[:, None]).T @ design + 1e-12 * np.eye(len(theta))
        step = _shrunk(gradient, curvature, theta) - theta
        size = 1.0
        while (new := _objective(design, won, strength, weights, theta + size * step)) > value and size > 1e-10:
            size /= 2
        if new > value or np.abs(size * step).max() < _TOLERANCE:
            break
        theta, value = theta + size * step, new
    return theta


def _objective(design: Floats, won: Floats, strength: float, weights: Floats, theta: Floats) -> float:
    logits = design @ theta
    surprise = np.logaddexp(0, logits) - won * logits
    return float(np.abs(theta).sum() + strength * weights @ surprise)


def _shrunk(gradient: Floats, curvature: Floats, theta: Floats) -> Floats:
    """The minimum of the lasso's quadratic around theta, coordinate by coordinate."""
    found = theta.copy()
    for _ in range(200):
        before = found.copy()
        for place in range(len(found)):
            slope = gradient[place] + curvature[place] @ (found - theta)
            free = curvature[place, place] * found[place] - slope
            found[place] = np.sign(free) * max(abs(free) - 1, 0.0) / curvature[place, place]
        if np.abs(found - before).max() < _TOLERANCE:
            break
    return found


def _sigmoid(x: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(x / 2))
    return found
