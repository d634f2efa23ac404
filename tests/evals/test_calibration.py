"""Calibration: a model that knows, one that boasts, and the baseline it must be held against."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palate.errors import DataError
from palate.evals.calibration import accuracy, calibration, longer_wins


def margins_of_an_honest_model(n: int, *, seed: int = 0) -> np.ndarray:
    """Differences whose sign is right exactly as often as the Bradley-Terry model says."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 2, n))
    right = rng.random(n) < 1 / (1 + np.exp(-size))
    return np.where(right, size, -size)


def names(margins: np.ndarray) -> list[str]:
    """A prompt to each pair."""
    return [str(n) for n in range(len(margins))]


def test_a_perfectly_calibrated_model() -> None:
    margins = margins_of_an_honest_model(20_000)
    result = calibration(margins, names(margins), seed=0)
    assert result.error is not None
    assert result.error < 0.01
    assert sum(item.count for item in result.bins) == result.num_pairs == 20_000
    for item in result.bins:
        assert item.low <= item.predicted <= item.high
        assert item.observed.value == pytest.approx(item.predicted, abs=0.03)


def test_a_boastful_and_a_timid_model() -> None:
    margins = margins_of_an_honest_model(5_000)
    for scale in (4.0, 0.25):
        result = calibration(scale * margins, names(margins), seed=0)
        honest = calibration(margins, names(margins), seed=0)
        assert result.error is not None
        assert honest.error is not None
        assert result.log_loss is not None
        assert honest.log_loss is not None
        assert result.error > honest.error + 0.05
        assert result.log_loss > honest.log_loss


def test_by_hand() -> None:
    log3 = math.log(3)  # confidence 3/4
    result = calibration([log3, log3, log3, -log3, 0.0], list("abcde"), seed=0, num_bins=5)
    first, second = result.bins
    assert (first.low, first.count, first.predicted, first.observed.value) == (0.5, 1, 0.5, 0.5)
    assert (second.count, second.observed.value) == (4, 0.75)
    assert second.predicted == pytest.approx(0.75)
    assert result.error == pytest.approx(0)
    assert result.log_loss == pytest.approx((3 * math.log(4 / 3) + math.log(4) + math.log(2)) / 5)


def test_pairs_of_one_prompt_are_one_piece_of_evidence() -> None:
    """Forty pairs of forty prompts, or of four prompts that each say the same ten times: the same share right."""
    margins = np.tile([1.0, 1.0, 1.0, -1.0], 10)
    (apart,) = calibration(margins, names(margins), seed=0, num_bins=1).bins
    (together,) = calibration(margins, list("abcd") * 10, seed=0, num_bins=1).bins
    widths = []
    for item in (apart, together):
        assert item.observed.value == 0.75
        assert item.observed.low is not None
        assert item.observed.high is not None
        widths.append(item.observed.high - item.observed.low)
    assert widths[0] == pytest.approx(2 * 1.96 * (0.75 * 0.25 / 40) ** 0.5, rel=0.1)
    assert widths[1] > 2.5 * widths[0]


def test_bins_do_not_depend_on_which_side_is_named_first() -> None:
    margins = margins_of_an_honest_model(500)
    folded, mirrored = calibration(margins, names(margins), seed=0), calibration(-margins, names(margins), seed=0)
    assert [item.count for item in folded.bins] == [item.count for item in mirrored.bins]
    for a, b in zip(folded.bins, mirrored.bins, strict=True):
        assert a.observed.value == pytest.approx(1 - (b.observed.value or 0))


def test_no_pairs_is_undefined_and_no_numbers_are_refused() -> None:
    empty = calibration([], [], seed=0)
    assert (empty.bins, empty.error, empty.log_loss, empty.num_pairs) == ((), None, None, 0)
    assert accuracy([], [], seed=0).value is None
    with pytest.raises(DataError, match="not finite"):
        calibration([float("nan")], ["a"], seed=0)


def test_certainty_does_not_overflow() -> None:
    result = calibration([1e4, -1e4], ["a", "b"], seed=0)
    assert result.log_loss == pytest.approx(5e3)


def test_accuracy_counts_ties_half_and_resamples_prompts() -> None:
    ids = ["p", "p", "q", "r"]
    result = accuracy([1.0, -1.0, 0.0, 2.0], ids, seed=0)
    assert result.value == pytest.approx(2.5 / 4)
    # ten copies of each pair of the same prompts add no certainty
    again = accuracy(np.tile([1.0, -1.0, 0.0, 2.0], 10), ids * 10, seed=0)
    assert (again.low, again.high) == pytest.approx((result.low, result.high))


def test_longer_wins() -> None:
    pairs = [("a b c", "a"), ("a", "a b"), ("a b", "c d")]
    assert longer_wins(pairs, ["p", "q", "r"], seed=0).value == pytest.approx(0.5)
