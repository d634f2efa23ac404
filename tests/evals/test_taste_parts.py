"""Parts of a taste: literals in, numbers by hand out."""

from __future__ import annotations

import numpy as np
import pytest

from palate.evals.report import Report
from palate.evals.taste_parts import accuracy_on_part, change, describe_accuracies, describe_changes

NOTHING = np.zeros((40, 2))


def test_a_change_is_the_paired_difference_of_the_means_by_prompt() -> None:
    found = change([[0.0, 2.0], [10.0, 10.0]], [[3.0], [13.0]], seed=0)
    assert (found.before, found.after, found.difference.value) == (5.5, 8.0, 2.5)
    # by prompt 2 and 3: Student's t of one degree of freedom, 12.706, times the standard error 0.5
    assert (found.difference.low, found.difference.high) == pytest.approx((2.5 - 6.353, 2.5 + 6.353), abs=1e-3)
    assert found.direction == "no clear change"
    assert str(found) == "+2.500 (-3.853 to +8.853)"


def test_prompts_that_differ_widely_do_not_hide_a_steady_change() -> None:
    level = np.random.default_rng(0).normal(0, 10, (40, 1)) + NOTHING
    better = level + np.random.default_rng(1).normal(0.1, 0.05, (40, 2))
    assert change(level, better, seed=0).direction == "rose"
    assert change(better, level, seed=0).direction == "fell"
    assert change([[0.0]], [[1.0]], seed=0).direction == "no interval"  # one prompt


def test_pairs_are_ordered_as_the_part_does_and_its_ties_are_left_out() -> None:
    found = accuracy_on_part([[3.0, 2.0, 1.0], [1.0, 1.0, 5.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]], seed=0)
    # prompt one: 1 > 2 and 1 > 3 rightly, 2 and 3 tie in the part; prompt two: equal rewards half, 1 < 3 and 2 < 3
    assert (found.num_pairs, found.num_ties) == (5, 1)
    assert found.accuracy.value == pytest.approx(4.5 / 5)
    assert found.spread == pytest.approx(np.sqrt((2 / 9 + 2 / 3) / 2))


def test_a_reward_that_is_the_part_sees_it_its_opposite_reverses_it_and_noise_does_not_see_it() -> None:
    rng = np.random.default_rng(0)
    part = rng.normal(size=(40, 4))
    assert accuracy_on_part(part, part, seed=0).verdict == "seen"
    assert accuracy_on_part(-part, part, seed=0).verdict == "reversed"
    assert accuracy_on_part(rng.normal(size=(40, 4)), part, seed=0).verdict == "not seen"
    nothing_to_order = accuracy_on_part(part, np.zeros((40, 4)), seed=0)
    assert (nothing_to_order.verdict, nothing_to_order.num_ties) == ("no interval", 240)


def test_interval_is_by_prompt_not_by_pair() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(60) < 0.6  # a prompt's pairs are all right or all wrong
    part = np.tile([0.0, 1.0, 2.0, 3.0], (60, 1))
    found = accuracy_on_part(np.where(right[:, None], part, -part), part, seed=0)
    assert found.accuracy.low is not None
    assert found.accuracy.high is not None
    assert found.accuracy.high - found.accuracy.low == pytest.approx(2 * 1.96 * (0.24 / 60) ** 0.5, rel=0.2)


def test_the_report_says_in_words_what_was_learned_and_what_was_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (40, 2))
    before = {"warmth": noise, "length": noise, "point": NOTHING}
    after = {"warmth": noise + rng.normal(1, 0.1, (40, 2)), "length": noise - 0.5 + noise[::-1], "point": NOTHING}
    report = Report("title")
    describe_changes(report, before, after, seed=0)
    page = report.html()
    assert "The score gained by: warmth (+" in page
    assert "It lost by: length (-0." in page
    assert "No change that 40 prompts could tell: point (+0.00)." in page
    assert report.numbers["parts"]["warmth"]["direction"] == "rose"
    assert report.numbers["parts"]["length"]["change_high"] < 0


def test_the_report_says_what_the_reward_model_sees() -> None:
    rng = np.random.default_rng(0)
    parts = {"warmth": rng.normal(size=(40, 4)), "point": rng.normal(size=(40, 4))}
    report = Report("title")
    describe_accuracies(report, parts["warmth"], parts, parts["warmth"] + 0.5 * parts["point"], seed=0)
    assert "It sees: all together, warmth. No better than a coin on: point." in report.html()
    numbers = report.numbers["reward_model_on_parts"]
    assert list(numbers) == ["all together", "warmth", "point"]
    assert numbers["warmth"]["accuracy"] == 1.0
    assert numbers["warmth"]["pairs"] == 240


def test_pairs_and_ties_stand_in_their_own_columns() -> None:
    report = Report("title")
    taste = np.array([[0.0, 0.0, 1.0]] * 40)
    describe_accuracies(report, taste, {"warmth": taste}, taste, seed=0)
    numbers = report.numbers["reward_model_on_parts"]["warmth"]
    assert (numbers["pairs"], numbers["ties"]) == (80, 40)
    pairs, ties = '<td class="figure">80</td>', '<td class="figure">40</td>'
    assert report.html().count(f"{pairs}{ties}") == 2  # all together, and warmth
