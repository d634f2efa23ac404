"""Prediction-powered means against the papers' formulas, judges with planted errors, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from palate.feedback.statistics.prediction_powered import corrected_mean

Floats = NDArray[np.float64]
NAN = np.nan


def names(count: int) -> list[str]:
    return [f"prompt {number}" for number in range(count)]


def test_by_hand() -> None:
    """Two items of people's: the judge is half a unit too kind there, and so it is taken to be elsewhere."""
    found = corrected_mean([1, 1, 1, 1, 1, 0], [1, 0, NAN, NAN, NAN, NAN], names(6), trust=1.0)
    assert found.judge.value == pytest.approx(5 / 6)
    assert found.people.value == 0.5
    assert found.corrected.value == pytest.approx(0.75 + (0.5 - 1))
    assert (found.judged, found.judged_by_people, found.trust) == (6, 2, 1.0)


def test_with_one_item_a_prompt_it_is_the_papers() -> None:
    """PPI++, equations of example 6.1: its L, its mean and its variance, with variances of samples."""
    numbers = np.random.default_rng(0)
    n, rest = 40, 400
    y = numbers.normal(size=n + rest)
    f = 0.6 * y + 0.5 + numbers.normal(size=n + rest)
    people = np.where(np.arange(n + rest) < n, y, NAN)
    found = corrected_mean(f, people, names(n + rest))
    labelled, other = f[:n], f[n:]
    power = np.cov(y[:n], labelled, bias=True)[0, 1] / (labelled.var() + n / rest * other.var())
    assert found.trust == pytest.approx(power)
    assert found.corrected.value == pytest.approx(power * other.mean() + (y[:n] - power * labelled).mean())
    variance = power**2 * other.var() / rest + (y[:n] - power * labelled).var() / n
    assert found.corrected.low is not None
    assert found.corrected.high is not None
    half = (found.corrected.high - found.corrected.low) / 2
    assert half == pytest.approx(2.0227 * (variance * 440 / 439) ** 0.5, rel=1e-4)  # Student's of 39
    assert found.worth is not None
    assert found.worth > 1


def test_a_judge_that_says_the_same_of_everything_counts_nothing() -> None:
    people = [1, 0, 1, 1, 0, 1, *[NAN] * 50]
    found = corrected_mean([0.5] * 56, people, names(56))
    assert found.trust == 0
    assert found.corrected == found.people
    assert found.worth == pytest.approx(1)


def test_a_judge_that_is_always_right_counts_as_people_do() -> None:
    y = np.tile([1.0, 0.0, 0.5, 1.0], 50)
    found = corrected_mean(y, np.where(np.arange(200) % 5 == 0, y, NAN), names(200))
    assert found.trust == pytest.approx(0.8, abs=1e-9)  # the best mean of two samples of one kind is that of both
    assert found.corrected.value == pytest.approx(y.mean())


def test_where_people_said_all_or_nothing() -> None:
    everything = corrected_mean([1, 0, 1], [1, 1, 0], names(3))
    assert everything.corrected == everything.people
    nothing = corrected_mean([1, 0, 1], [NAN] * 3, names(3))
    assert nothing.corrected.value is None
    assert nothing.people.value is None
    assert nothing.judge.value == pytest.approx(2 / 3)
    assert corrected_mean([], [], []).judge.value is None


def test_items_of_one_prompt_do_not_make_it_surer() -> None:
    """Each item ten times over, under one prompt: the same mean with the same interval."""
    numbers = np.random.default_rng(1)
    f = numbers.integers(0, 2, 60).astype(float)
    y = np.where(np.arange(60) < 20, numbers.integers(0, 2, 60).astype(float), NAN)
    once = corrected_mean(f, y, names(60))
    often = corrected_mean(np.repeat(f, 10), np.repeat(y, 10), [name for name in names(60) for _ in range(10)])
    assert (often.corrected.low, often.corrected.high) == pytest.approx((once.corrected.low, once.corrected.high))


def test_the_judges_interval_misses_and_the_corrected_one_covers() -> None:
    """A judge that is for the first answer where it does not know, in 25%; 500 pairs, 100 of people's."""
    numbers = np.random.default_rng(3)
    truth, covered, narrower = 0.4, {"judge": 0, "people": 0, "corrected": 0}, 0
    for _ in range(600):
        y = (numbers.random(500) < truth).astype(float)
        f = np.where(numbers.random(500) < 0.75, y, 1.0)
        found = corrected_mean(f, np.where(np.arange(500) < 100, y, NAN), names(500))
        for name in covered:
            estimate = getattr(found, name)
            covered[name] += estimate.low <= truth <= estimate.high
        narrower += found.corrected.high - found.corrected.low < found.people.high - found.people.low
    assert covered["judge"] == 0, "it says 0.55, and is sure"
    assert covered["people"] / 600 == pytest.approx(0.95, abs=0.025)
    assert covered["corrected"] / 600 == pytest.approx(0.95, abs=0.025)
    assert narrower == 600
