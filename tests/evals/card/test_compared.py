"""Verdicts: which way is better, what is a trifle, and what belongs to the family that is corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from palate.evals.card.compared import Row, rows_of
from palate.evals.card.paired import holm
from palate.evals.card.pictures import turned
from palate.evals.protocols.all_protocols import PROTOCOLS
from palate.intervals import Estimate


def texts(bits: Sequence[float]) -> list[Mapping[str, float]]:
    return [{"bits": each, "bytes": 100.0} for each in bits]


def row(before: Sequence[float], after: Sequence[float]) -> Row:
    (found,) = rows_of({"t": PROTOCOLS["held_out_text"]}, {"t": texts(after)}, {"t": texts(before)}, seed=0)
    return found


BITS = np.linspace(90, 110, 40)


def test_fewer_bits_are_better_and_a_thousandth_of_one_is_a_trifle() -> None:
    assert [row(list(BITS), list(BITS + change)).verdict for change in (-5, 5, 0.1, -0.1, 0)] == [
        "better",
        "worse",
        "a trifle",
        "a trifle",
        "not told apart",
    ]
    found = row(list(BITS), list(BITS + 5))
    assert (found.before, found.after.value) == (row(list(BITS), list(BITS)).after, pytest.approx(1.05))
    assert turned(found).value == pytest.approx(-5)  # hundredths of before, worse to the left


@pytest.mark.parametrize(("before", "after", "is_luck"), [(10, 12, True), (10, 38, False), (38, 10, False)])
def test_one_model_that_is_better_than_a_guess_makes_it_no_guess(before: int, after: int, is_luck: bool) -> None:
    """Of 40 questions of four choices."""
    old, new = (choices([n < right for n in range(40)]) for right in (before, after))
    accuracy, by_characters, brier, *_ = rows_of({"q": PROTOCOLS["arc_easy"]}, {"q": new}, {"q": old}, seed=0)
    assert (accuracy.luck, by_characters.luck, brier.luck) == (0.25, 0.25, None)
    assert accuracy.is_luck == is_luck
    assert not brier.is_luck


def test_the_interval_is_turned_with_the_difference() -> None:
    noise = np.sin(np.arange(40.0))
    found = turned(row(list(BITS), list(BITS + 5 + 3 * noise)))
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert found.low < found.value < found.high < 0


def test_length_is_neither_better_nor_worse() -> None:
    names = [measure.name for measure in PROTOCOLS["form"].measures]
    before = [dict.fromkeys(names, 0.5) | {"mean_words": 9.0 + n % 3} for n in range(30)]
    after = [each | {"mean_words": each["mean_words"] + 4} for each in before]
    found = rows_of({"form": PROTOCOLS["form"]}, {"form": after}, {"form": before}, seed=0)
    assert [each.verdict for each in found if each.corrected is not None] == ["changed", *4 * ["not told apart"]]


def choices(right: Sequence[bool]) -> list[Mapping[str, float]]:
    return [{"acc": float(each), "acc_norm": 0.0, "brier": 1.0 - each, "chance": 0.25} for each in right]


def test_the_family_is_what_is_compared_and_all_choices_together() -> None:
    names = ("arc_easy", "boolq")
    before = {name: choices([True] * 30) for name in names}
    after = {"arc_easy": choices([n >= 6 for n in range(30)]), "boolq": choices([n >= 1 for n in range(30)])}
    found = rows_of({name: PROTOCOLS[name] for name in names}, after, before, seed=0)
    family = [each for each in found if each.corrected is not None]
    assert [(each.section, each.measure.name) for each in family] == [
        ("arc_easy", "acc"),
        ("boolq", "acc"),
        ("choices", "brier"),
    ]
    assert family[2].num_items == 60
    probabilities = [each.change.p for each in family if each.change is not None]
    assert probabilities[:2] == [2 * 0.5**6, 1.0]  # by itself below 5%, and not in the family
    assert [each.corrected for each in family] == holm(probabilities)
    assert [each.verdict for each in family] == ["not told apart", "not told apart", "worse"]


def test_without_a_baseline_there_are_figures_and_no_verdicts() -> None:
    found = rows_of({"t": PROTOCOLS["held_out_text"]}, {"t": texts([100.0] * 40)}, None, seed=0)
    assert [(each.after, each.before, each.change, each.verdict) for each in found] == [
        (Estimate(1.0, 1.0, 1.0), None, None, "")
    ]
