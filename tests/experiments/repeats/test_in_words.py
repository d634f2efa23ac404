"""What the page of a repeat says of a figure: with planted numbers, what is known and what is not."""

from __future__ import annotations

import pytest

from palate.experiments.repeats.draws import Draw
from palate.experiments.repeats.in_words import conclusion, in_percent
from palate.experiments.repeats.told import Figure, as_json, figures_of, without_copies
from palate.intervals import Estimate


def a_figure(values: list[float], *, width: float = 0.0, **changes: list[float]) -> Figure:
    """With intervals so wide on either side; and the same runs with a source drawn anew."""
    by_seed = {
        seed: Estimate(value, value - width, value + width) if width else Estimate(value)
        for seed, value in enumerate(values)
    }
    anew = {
        name: [(value, value + change) for value, change in zip(values, changed, strict=False)]
        for name, changed in changes.items()
    }
    return Figure(name="accuracy", by_seed=by_seed, anew=anew)


def test_which_source_has_the_largest_part() -> None:
    known = a_figure([1.0, 2.0, 3.0], order=[0.1, -0.1, 0.1], labelers=[1.4, -1.4, 1.4])
    said = conclusion(known)
    assert "labelers has 99% (93% to 100%), order has 1% (0% to 7%)" in said
    assert "That labelers has the largest part is sure to 97.5%." in said
    assert known.largest == as_json(known)["largest"] == "labelers"
    assert as_json(known)["parts"]["order"]["share_high"] == pytest.approx(0.07, abs=0.01)
    unknown = a_figure([1.0, 2.0, 3.0], order=[1.0, -1.0, 1.0], labelers=[1.4, -1.4, 1.4])
    said = conclusion(unknown)
    assert "cannot be told: with 3 seeds one variance has to be found 15.4 times as large as another." in said
    assert unknown.largest == ""


def test_nothing_is_said_of_shares_before_every_source_has_been_drawn() -> None:
    told = {Draw(seed=seed): {"a": Estimate(float(seed))} for seed in range(3)}
    told |= {Draw(seed=seed, anew="order"): {"a": Estimate(seed + 1.0)} for seed in range(3)}
    (waiting,) = figures_of(told, apart=["order", "initial"])
    assert waiting.parts == {"order": 0.5}
    assert waiting.shares == {}
    assert "variances" not in conclusion(waiting)
    assert as_json(waiting)["parts"]["order"]["share"] is None
    (done,) = figures_of(told | {Draw(seed=0, anew="initial"): {"a": Estimate(1.0)}}, apart=["order", "initial"])
    assert set(done.shares) == {"order", "initial"}
    (alone,) = figures_of(told, apart=["order"])
    assert "order has 100%." in conclusion(alone)
    assert "largest" not in conclusion(alone)


def test_seeds_beside_other_prompts() -> None:
    values = [0.70, 0.71, 0.72]
    assert "less than other prompts or items (0.204) would change it" in conclusion(a_figure(values, width=0.4))
    assert "more than other prompts or items (0.00051) would change it" in conclusion(a_figure(values, width=0.001))
    assert "cannot be told from so few seeds" in conclusion(a_figure(values, width=0.02))
    assert "prompts" not in conclusion(a_figure(values))


@pytest.mark.parametrize(
    ("change", "said"),
    [(1.4, "sources would that do not work together"), (30.0, "work together."), (0.001, "something else varies")],
)
def test_whether_the_parts_add_up(change: float, said: str) -> None:
    figure = a_figure([2.0, 4.0, 6.0], order=[2 * change, -2 * change, 2 * change])
    assert said in conclusion(figure)
    assert figure.sum_of_parts.value == pytest.approx(change**2 / 2)


def test_copies_are_named_once() -> None:
    plain = a_figure([1.0, 2.0], order=[0.5, 0.5])
    bare = Figure(name="bare", by_seed=plain.by_seed, anew=plain.anew)
    wide = Figure(name="wide", by_seed=a_figure([1.0, 2.0], width=0.1).by_seed, anew=plain.anew)
    other = Figure(name="other", by_seed=plain.by_seed, anew={"order": [(1.0, 1.5), (2.0, 2.4)]})
    kept, copies = without_copies([bare, wide, other])
    assert [each.name for each in kept] == ["wide", "other"], "the one with an interval of its own stays"
    assert copies == {"bare": "wide"}


def test_a_share_without_an_interval() -> None:
    assert [in_percent(each) for each in (Estimate(None), Estimate(1.0), Estimate(0.5, 0.25, 0.75))] == [
        "undefined",
        "100%",
        "50% (25% to 75%)",
    ]
