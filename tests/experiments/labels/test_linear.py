"""Linear rewards: the minimum is the minimum, weights are copies, and an ensemble without judgements is the prior."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from palate.experiments.labels.linear import components, ensemble, fit, information
from palate.randomness import normals, uniforms

X = normals(40 * 3, 1, "x").reshape(40, 3)
OUTCOME = np.round(2 * uniforms(40, 1, "outcome")) / 2  # 0, one half, 1


def test_the_head_is_where_likelihood_and_prior_are_greatest() -> None:
    weight, anchor = uniforms(40, 2, "weight"), np.array([0.5, -1.0, 0.0])

    def loss(head: np.ndarray) -> float:
        margin = X @ head
        prior = 0.7 / 2 * float((head - anchor) @ (head - anchor))
        return float(weight @ (np.log(1 + np.exp(margin)) - OUTCOME * margin)) + prior

    found = fit(X, OUTCOME, ridge=0.7, weight=weight, anchor=anchor)
    assert found == pytest.approx(minimize(loss, np.zeros(3), tol=1e-12).x, abs=1e-5)


def test_separable_judgements_under_a_faint_prior_are_no_trouble() -> None:
    head = fit(100 * X, (X[:, 0] > 0).astype(float), ridge=1e-6)
    assert np.isfinite(head).all()
    assert ((X @ head > 0) == (X[:, 0] > 0)).all()


def test_a_weight_of_two_is_a_judgement_that_came_twice() -> None:
    twice = np.repeat([1.0, 2.0], 20)
    again = np.r_[np.arange(40), np.arange(20, 40)]
    assert fit(X, OUTCOME, ridge=1.0, weight=twice) == pytest.approx(fit(X[again], OUTCOME[again], ridge=1.0))


def test_information_is_the_curvature_of_the_loss() -> None:
    head, weight = np.array([0.2, 0.1, -0.3]), np.ones(40)

    def gradient(at: np.ndarray) -> np.ndarray:
        return X.T @ (weight * (expit(X @ at) - OUTCOME)) + 2.0 * at

    numeric = [(gradient(head + step) - gradient(head - step)) / 2e-5 for step in 1e-5 * np.eye(3)]
    assert information(X, expit(X @ head), weight, 2.0) == pytest.approx(np.array(numeric), abs=1e-6)


def test_members_are_the_prior_where_nothing_was_judged_and_agree_where_much_was() -> None:
    """Along the first axis there are 400 judgements, along the second none."""
    x = np.c_[np.ones(400), np.zeros(400)]
    outcome = (np.arange(400) % 4 > 0).astype(float)  # three to one
    heads = ensemble(x, outcome, np.arange(400), weight=np.ones(400), ridge=4.0, members=60, key=(0, "test"))
    assert heads[:, 0].mean() == pytest.approx(np.log(3), abs=0.1)
    assert heads[:, 0].std() < 0.2
    assert heads[:, 1].std() == pytest.approx(0.5, rel=0.25)  # 1 / sqrt(ridge)
    empty = ensemble(x[:0], outcome[:0], np.arange(0), weight=np.ones(0), ridge=4.0, members=3, key=(0, "test"))
    assert (empty[:, 1] == heads[:3, 1]).all()  # the same anchors, whatever was judged


def test_pairs_of_one_judgement_are_drawn_together() -> None:
    """Two pairs that contradict each other in one judgement: whoever meets the one meets the other."""
    x, outcome = np.array([[1.0], [1.0], [0.0]]), np.array([1.0, 0.0, 1.0])
    heads = ensemble(x, outcome, np.array([0, 0, 1]), weight=np.ones(3), ridge=1e4, members=20, key=(1, "test"))
    assert np.abs(heads).max() < 0.05


def test_components_are_orthogonal_and_in_proportion() -> None:
    features = normals(200 * 4, 3, "f").reshape(200, 4)
    features[:, 1] = features[:, 0] + 0.1 * features[:, 1]  # two say the same
    features -= features.mean(0)
    z = features @ components(features, 3)
    covariance = np.cov(z.T, bias=True)
    assert covariance == pytest.approx(np.diag(np.diag(covariance)), abs=1e-9)
    assert covariance[0, 0] == pytest.approx(1.0)
    assert 1 > covariance[1, 1] > covariance[2, 2]
    assert components(np.repeat(features[:, :1], 3, axis=1), 3).shape == (3, 1)  # what is not there is not made up
