"""Win rates: literals, ties, intervals by prompt, length, and judges that see two responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from palate.errors import DataError
from palate.evals.winrate import (
    both_orders,
    length_controlled,
    length_controlled_of_outcomes,
    win_rate,
    win_rate_by_length,
    win_rate_of_outcomes,
)
from palate.records import Prompt

PROMPTS = [Prompt.from_text(str(i)) for i in range(4)]


def test_every_response_meets_every_other() -> None:
    result = win_rate([[1.0, 3.0], [0.0, 0.0]], [[2.0, 3.0, 0.0], [0.0, 1.0, 1.0]], seed=0)
    # prompt one: 1 beats 0; 3 beats 2 and 0, ties 3: 3.5 of 6. prompt two: each ties 0, loses twice: 1 of 6
    assert (result.wins, result.ties, result.losses, result.num_prompts) == (3, 3, 6, 2)
    assert result.rate == pytest.approx((3.5 / 6 + 1 / 6) / 2)


def test_ties_count_half_and_the_margin_widens_them() -> None:
    assert win_rate([[1.0]], [[1.0]], seed=0).rate == 0.5
    assert win_rate([[1.2], [2.0]], [[1.0], [1.0]], seed=0, tie_margin=0.5).rate == 0.75


def test_a_model_against_itself_is_at_one_half() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 3))
    result = win_rate(scores, scores, seed=0)
    assert result.rate == 0.5
    assert (result.low, result.high) == pytest.approx((0.5, 0.5))


def test_interval_is_by_prompt_not_by_comparison() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(size=(50, 1))  # prompts differ, responses to one prompt are alike
    few = win_rate(level + np.zeros((50, 1)), np.zeros((50, 1)), seed=0)
    many = win_rate(level + np.zeros((50, 8)), np.zeros((50, 8)), seed=0)
    assert (few.rate, few.low, few.high) == pytest.approx((many.rate, many.low, many.high))
    assert few.low is not None
    assert few.high is not None
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.5 / 50**0.5, rel=0.2)


def test_one_prompt_has_no_interval() -> None:
    result = win_rate([[1.0]], [[0.0]], seed=0)
    assert (result.rate, result.low, result.high) == (1.0, None, None)


def test_swapping_the_models_mirrors_the_result() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(0, 4, (20, 2)), rng.integers(0, 4, (20, 3))
    one, other = win_rate(ours, theirs, seed=0), win_rate(theirs, ours, seed=0)
    assert one.rate == pytest.approx(1 - other.rate)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)


def test_mistakes() -> None:
    with pytest.raises(DataError, match="a row for each prompt"):
        win_rate([[1.0]], [[1.0], [2.0]], seed=0)
    with pytest.raises(DataError, match="not finite"):
        win_rate([[float("nan")]], [[1.0]], seed=0)
    with pytest.raises(DataError, match="no prompt"):
        win_rate_of_outcomes([], seed=0)


def test_length_controlled_without_a_length_effect_is_the_win_rate() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 1, (400, 1)), rng.normal(0, 1, (400, 1))
    words = rng.integers(5, 50, (2, 400, 1))
    plain = win_rate(ours, theirs, seed=0).rate
    controlled = length_controlled(ours, theirs, *words, seed=0, resamples=50)
    assert controlled.value == pytest.approx(plain, abs=0.02)


def test_length_controlled_finds_nothing_in_a_model_that_is_merely_longer() -> None:
    rng = np.random.default_rng(0)
    words_model, words_baseline = rng.integers(10, 60, (400, 2)), rng.integers(5, 40, (400, 2))
    noise = rng.logistic(size=(2, 400, 2))
    ours, theirs = 0.1 * words_model + noise[0], 0.1 * words_baseline + noise[1]  # the judge likes length alone
    assert win_rate(ours, theirs, seed=0).rate > 0.65
    controlled = length_controlled(ours, theirs, words_model, words_baseline, seed=0, resamples=100)
    assert controlled.value == pytest.approx(0.5, abs=0.05)
    assert controlled.low is not None
    assert controlled.high is not None
    assert controlled.low < 0.5 < controlled.high


def test_length_controlled_is_the_most_probable_intercept() -> None:
    """Of a logistic regression in which every prompt counts once; the slope has a unit normal prior."""
    rng = np.random.default_rng(3)
    ours, theirs = rng.integers(0, 4, (12, 2)), rng.integers(0, 3, (12, 3))
    words_model, words_baseline = rng.integers(10, 60, (12, 2)), rng.integers(5, 40, (12, 3))
    gaps = ours[:, :, None] - theirs[:, None, :]
    wins = np.where(gaps > 0, 1.0, np.where(gaps < 0, 0.0, 0.5))
    longer = (words_model[:, :, None] - words_baseline[:, None, :]).astype(float)
    x = longer / np.sqrt((longer**2).mean())

    def cost(theta: NDArray[np.float64]) -> float:
        z = theta[0] + theta[1] * x
        of_each = wins * np.logaddexp(0, -z) + (1 - wins) * np.logaddexp(0, z)
        return float(of_each.mean((1, 2)).sum() + theta[1] ** 2 / 2)

    intercept, slope = minimize(cost, np.zeros(2), tol=1e-12).x
    found = length_controlled(ours, theirs, words_model, words_baseline, seed=0)
    assert abs(slope) > 0.1
    assert found.value == pytest.approx(1 / (1 + np.exp(-intercept)), abs=1e-6)


def test_length_controlled_stays_finite_when_length_decides_everything() -> None:
    words_model, words_baseline = np.full((10, 1), 30), np.full((10, 1), 10)
    controlled = length_controlled(words_model, words_baseline, words_model, words_baseline, seed=0, resamples=20)
    assert controlled.value is not None
    assert 0.5 < controlled.value <= 1
    with pytest.raises(DataError, match="number of words"):
        length_controlled([[1.0]], [[0.0]], [[1, 2]], [[1, 2]], seed=0)


def test_win_rate_by_length_counts_every_pair_in_the_bin_of_its_difference() -> None:
    ours, theirs = [[1.0, 0.0], [1.0, 0.5]], [[0.0], [0.5]]
    words_ours, words_theirs = [[20, 9], [8, 40]], [[11], [10]]
    bins = win_rate_by_length(ours, theirs, words_ours, words_theirs, seed=0)
    # 9 longer won, 2 shorter tied; 2 shorter won, 30 longer tied
    assert [(item.low, item.high, item.num_pairs, item.rate.value) for item in bins] == [
        (-2, 2, 2, 0.75),
        (7, 14, 1, 1.0),
        (15, 30, 1, 0.5),
    ]
    assert [item.label.replace("\n", " ") for item in bins] == ["within 2 words", "7 to 14 longer", "15 to 30 longer"]


def test_every_difference_in_length_has_one_bin_and_both_sides_are_alike() -> None:
    differences = np.arange(-50, 51)
    zeros = np.zeros((101, 1))
    bins = win_rate_by_length(zeros, zeros, differences[:, None] + 60, zeros + 60, seed=0)
    assert [item.num_pairs for item in bins] == [20, 16, 8, 4, 5, 4, 8, 16, 20]
    assert [item.label.replace("\n", " ") for item in bins] == [
        "31+ words shorter",
        "15 to 30 shorter",
        "7 to 14 shorter",
        "3 to 6 shorter",
        "within 2 words",
        "3 to 6 longer",
        "7 to 14 longer",
        "15 to 30 longer",
        "31+ words longer",
    ]
    with pytest.raises(DataError, match="number of words"):
        win_rate_by_length([[1.0]], [[0.0]], [[1, 2]], [[1, 2]], seed=0)


def test_the_interval_of_a_bin_is_by_prompt() -> None:
    level = np.random.default_rng(0).normal(size=(50, 1))
    words = np.full((50, 1), 10.0)
    (few,) = win_rate_by_length(level, np.zeros((50, 1)), words, words, seed=0)
    (many,) = win_rate_by_length(level + np.zeros((50, 8)), np.zeros((50, 1)), words + np.zeros((50, 8)), words, seed=0)
    assert (few.rate.low, few.rate.high) == pytest.approx((many.rate.low, many.rate.high))
    assert many.num_pairs == 400


def test_both_orders_keeps_only_what_survives_the_swap() -> None:
    def judge(prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
        """Fair on "good", otherwise whatever comes first; "same" is a tie."""
        return np.array(
            [
                0.0 if a == b == "same" else 2.0 if a == "good" else -2.0 if b == "good" else 0.1
                for a, b in zip(first, second, strict=True)
            ]
        )

    result = both_orders(judge, PROMPTS, ["good", "x", "same", "x"], ["x", "good", "same", "y"])
    assert result.outcomes.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert result.num_disagreements == 1
    assert result.first_share == pytest.approx(4 / 6)  # one each way on the fair pairs, both times on the last
    assert win_rate_of_outcomes(result.outcomes[:, None], seed=0).rate == 0.5


def test_a_judge_that_always_takes_the_first_decides_nothing() -> None:
    result = both_orders(lambda p, a, b: np.ones(len(p)), PROMPTS, ["a"] * 4, ["b"] * 4)
    assert result.outcomes.tolist() == [0.5] * 4
    assert (result.num_disagreements, result.first_share) == (4, 1.0)
    with pytest.raises(DataError, match="one preference per prompt"):
        both_orders(lambda p, a, b: [1.0], PROMPTS, ["a"] * 4, ["b"] * 4)


def test_length_control_is_the_regression_that_it_says() -> None:
    """The most likely intercept under a unit normal prior on the slope, found by another method."""
    rng = np.random.default_rng(3)
    words = rng.integers(-30, 40, (12, 2)).astype(float)
    outcomes = np.where(rng.random((12, 2)) < 1 / (1 + np.exp(-0.4 - words / 20)), 1.0, 0.0)
    outcomes[0] = 0.5
    x = words.ravel() / np.sqrt((words**2).mean())

    def unlikely(theta: NDArray[np.float64]) -> float:
        logits = theta[0] + theta[1] * x
        losses = np.logaddexp(0, -logits) * outcomes.ravel() + np.logaddexp(0, logits) * (1 - outcomes.ravel())
        return float(losses.sum() / 2 + theta[1] ** 2 / 2)  # two pairs to a prompt, and each prompt counts once

    best = minimize(unlikely, np.zeros(2), tol=1e-10).x
    found = length_controlled_of_outcomes(outcomes, words, seed=0)
    assert found.value == pytest.approx(1 / (1 + np.exp(-best[0])), abs=1e-5)
    assert abs(best[1]) > 0.3, "length matters here"


def test_scores_and_words_are_of_the_model_first() -> None:
    """The model wins although it is shorter: at equal length it would win more often still."""
    rng = np.random.default_rng(0)
    words = rng.integers(10, 30, (2, 60, 1))
    words[1] += 8
    scores = 0.1 * words + rng.normal(0, 1, (2, 60, 1))
    scores[0] += 1.2
    plain = win_rate(*scores, seed=0).rate
    controlled = length_controlled(*scores, *words, seed=0, resamples=10).value
    assert controlled is not None
    assert controlled > plain + 0.05
