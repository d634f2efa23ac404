"""alpaca_eval's model of length: against its own code where that is installed, and on data whose truth is known.

The oracle needs an environment of its own: ``pip install --no-deps alpaca-eval==0.6.6 patsy scikit-learn pandas``.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from palate.errors import DataError
from palate.evals.alpaca_length import (
    STRENGTHS,
    alpaca_length_controlled,
    at_equal_length,
    chosen_strength,
    features,
    lasso_logistic,
)


def judged(seed: int, count: int, *, length: float, model: float) -> tuple[Any, Any, Any]:
    """Characters more than the baseline's, difficulties, and probabilities of winning as a judge gives them."""
    numbers = np.random.default_rng(seed)
    more, difficulty = numbers.normal(80, 300, count).round(), numbers.normal(size=count)
    logit = model + length * np.tanh(more / more.std(ddof=1)) + 0.5 * difficulty
    won = 1 / (1 + np.exp(-logit)) > numbers.random(count)
    return more, difficulty, np.clip(won + numbers.normal(0, 0.02, count), 0, 1)


def test_the_lasso_is_at_its_minimum() -> None:
    """Where a weight is not zero the slope is the lasso's; where it is zero the slope is no steeper than that."""
    more, difficulty, won = judged(0, 300, length=1.5, model=0.0)
    design, weights = features(more, difficulty), np.linspace(0.5, 1.5, 300)
    for strength in (0.003, 0.02, 1.0, 100.0):
        theta = lasso_logistic(design, won, strength, weights)
        slope = strength * design.T @ (weights * (won - 1 / (1 + np.exp(-design @ theta))))
        for value, each in zip(theta, slope, strict=True):
            assert abs(each) <= 1 + 1e-5
            assert value == 0 or each == pytest.approx(np.sign(value), abs=1e-5)
    assert not lasso_logistic(design, won, 1e-4, weights).any()


def test_a_judge_that_likes_length_alone_is_seen_through() -> None:
    more, _, won = judged(1, 600, length=2.5, model=0.0)
    found = alpaca_length_controlled(won, more, np.arange(600), seed=0, resamples=60)
    assert won.mean() > 0.57
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high
    better = alpaca_length_controlled(
        *[judged(2, 600, length=2.5, model=1.0)[place] for place in (2, 0)], np.arange(600), seed=0, resamples=60
    )
    assert better.low is not None
    assert better.low > 0.6


def test_nothing_can_be_told_where_all_are_longer_by_the_same() -> None:
    assert alpaca_length_controlled(np.zeros(9), np.full(9, 7), np.arange(9), seed=0).value is None
    assert alpaca_length_controlled(np.full(9, 0.5), np.zeros(9), np.arange(9), seed=0).value == pytest.approx(0.5)


def test_too_few_prompts() -> None:
    with pytest.raises(DataError, match="4 prompts are fewer than the 5 folds"):
        alpaca_length_controlled(np.ones(8), np.ones(8), np.repeat(np.arange(4), 2), seed=0)


@pytest.fixture
def oracle() -> ModuleType:
    """Its file by itself: the package would import clients of every provider of models."""
    found = find_spec("alpaca_eval")
    if found is None or find_spec("sklearn") is None or found.submodule_search_locations is None:
        pytest.skip("needs alpaca-eval 0.6.6 and scikit-learn")
    path = Path(next(iter(found.submodule_search_locations))) / "metrics" / "glm_winrate.py"
    package, metrics = ModuleType("alpaca_eval"), ModuleType("alpaca_eval.metrics")
    package.__path__, metrics.__path__ = [], []
    package.constants = package.types = package.utils = SimpleNamespace(AnyLoadableDF=object)  # type: ignore[attr-defined]
    winrate = ModuleType("alpaca_eval.metrics.winrate")
    winrate.get_winrate = None  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for each in (package, metrics, winrate):
            patch.setitem(sys.modules, each.__name__, each)
        spec = spec_from_file_location("alpaca_eval.metrics.glm_winrate", path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("known_difficulty", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_alpaca_evals_own(seed: int, known_difficulty: bool, oracle: Any) -> None:
    import pandas as pd

    more, difficulty, won = judged(seed, 250, length=1.2, model=0.4)
    given = difficulty if known_difficulty else None
    shorter = pd.Series(-more)
    data = pd.DataFrame({"preference": won, "std_delta_len": shorter / shorter.std(), "not_gamed_baseline": True})
    data["instruction_difficulty"] = difficulty
    name = "length_controlled_noreg" if known_difficulty else "length_controlled_minimal"
    train, test = oracle.make_dmatrix_for_model(
        data, data.assign(std_delta_len=0), formula=oracle.GLM_INFO[name]["formula"]
    )
    fitted = oracle.fit_LogisticRegressionCV(train, "preference", is_ytrue_proba=True, n_splits=5)
    theirs = fitted.predict_proba(test)[:, 1]

    design = features(more, given)
    strength = chosen_strength(design, won, (249 - np.arange(250)) % 5)
    ours = at_equal_length(design, lasso_logistic(design, won, strength, np.ones(250)))
    print(f"strength {strength:.4g} of {fitted.C_[0]:.4g}, furthest {np.abs(ours - theirs).max():.2g}")
    assert strength == pytest.approx(float(fitted.C_[0]))
    assert strength in STRENGTHS
    assert np.abs(ours - theirs).max() < 2e-3
    assert alpaca_length_controlled(won, more, np.arange(250), seed=0, difficulty=given, resamples=2).value == (
        pytest.approx(theirs.mean(), abs=1e-3)
    )
