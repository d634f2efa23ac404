"""The forms of over-optimisation: planted coefficients are found, peaks are where the slope is zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.experiments.forms import Coefficients, Form, fit, fit_with_intervals

FORMS: tuple[Form, ...] = ("best of n", "rl")
D = np.array([0.0, 0.5, 1.0, 2.0, 3.5])


def test_the_forms_by_hand() -> None:
    assert Coefficients(form="best of n", alpha=2.0, beta=0.5)([0.0, 2.0, 4.0]).tolist() == [0.0, 2.0, 0.0]
    rl = Coefficients(form="rl", alpha=2.0, beta=0.5)
    assert rl([0.0, 1.0, math.e]).tolist() == pytest.approx([0.0, 2.0, 1.5 * math.e])
    assert Coefficients(form="best of n", alpha=2.0, beta=0.5).peak == 2.0
    assert rl.peak == pytest.approx(math.exp(3))


@given(st.sampled_from(FORMS), st.floats(-3, 3), st.floats(-2, 2))
def test_what_was_planted_is_found(form: Form, alpha: float, beta: float) -> None:
    planted = Coefficients(form=form, alpha=alpha, beta=beta)
    found = fit(form, D, planted(D))
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), abs=1e-9)


@given(st.sampled_from(FORMS), st.floats(0.1, 3), st.floats(0.3, 2))
def test_the_peak_is_highest(form: Form, alpha: float, beta: float) -> None:
    found = Coefficients(form=form, alpha=alpha, beta=beta)
    assert found.peak is not None
    around = found(found.peak * np.array([0.9, 0.99, 1.0, 1.01, 1.1]))
    assert int(around.argmax()) == 2


def test_a_curve_that_never_turns_has_no_peak() -> None:
    for form in FORMS:
        assert Coefficients(form=form, alpha=1.0, beta=0.0).peak is None
        assert Coefficients(form=form, alpha=1.0, beta=-0.5).peak is None
    assert Coefficients(form="best of n", alpha=-1.0, beta=0.5).peak is None
    assert Coefficients(form="rl", alpha=1.0, beta=1e-4).peak is None  # beyond all numbers


def test_too_few_distances_are_no_fit() -> None:
    assert fit("rl", [0.0, 1.0], [0.0, 1.0]) is None
    assert fit_with_intervals("best of n", np.array([0.0, 1.0]), np.zeros((2, 40)), seed=0) is None


@pytest.mark.parametrize("form", FORMS)
def test_intervals_hold_what_was_planted_and_narrow_with_prompts(form: Form) -> None:
    planted, rng = Coefficients(form=form, alpha=1.5, beta=0.4), np.random.default_rng(0)
    widths = []
    for prompts in (40, 640):
        kl = np.maximum(0, D[:, None] ** 2 + rng.normal(0, 0.05, (5, prompts)) * (D[:, None] > 0))
        rewards = planted(D)[:, None] + rng.normal(0, 0.5, (5, prompts)) * (D[:, None] > 0)
        found = fit_with_intervals(form, kl, rewards, seed=0, resamples=200)
        assert found is not None
        for estimate, value in ((found.alpha, 1.5), (found.beta, 0.4)):
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low < value < estimate.high
        assert found.alpha.low is not None
        assert found.alpha.high is not None
        widths.append(found.alpha.high - found.alpha.low)
        assert found.farthest == pytest.approx(3.5, rel=0.02)
        assert found.reached is (form == "best of n")  # 1.9, and exp(2.75)
    assert widths[1] < widths[0] / 2


def test_known_distances_are_not_drawn_again() -> None:
    planted = Coefficients(form="best of n", alpha=1.0, beta=0.25)
    rewards = np.repeat(planted(D)[:, None], 50, axis=1)
    found = fit_with_intervals("best of n", D, rewards, seed=0, resamples=50)
    assert found is not None
    assert (found.peak.value, found.peak.low, found.peak.high) == pytest.approx((2.0, 2.0, 2.0))
