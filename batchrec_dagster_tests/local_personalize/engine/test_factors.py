"""Tests of implicit ALS, compared with the equations of the paper."""

from __future__ import annotations

import numpy as np

from batchrec_dagster.local_personalize.engine.data import Float64, History
from batchrec_dagster.local_personalize.engine.factors import FactorScorer, fit_factors
from batchrec_dagster.local_personalize.engine.select import score_users
from batchrec_dagster_tests.local_personalize.engine.support import history_of


def build_history(users: int = 40, items: int = 30) -> History:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, users)
    return history_of([rng.permutation(items)[:length].tolist() for length in lengths], items)


def solve(history: History, exponent: float, factors: FactorScorer) -> Float64:
    """Return the scores by the paper's formula, user by user."""
    y = factors.item_factors.astype(np.float64)
    weights = history.recency_weights(exponent).toarray()
    rows = []
    for row in weights:
        confidence = np.where(row > 0, factors.confidence * row, 1.0)
        size = np.rint(np.log2(np.count_nonzero(row) + 8) / 2)
        r = factors.regularization * 2.0**size
        left = y.T @ (confidence[:, None] * y) + r * np.eye(y.shape[1])
        rows.append(y @ np.linalg.solve(left, y.T @ (confidence * (row > 0))))
    return np.array(rows)


def test_scores_solve_the_equations_of_the_paper() -> None:
    history = build_history()
    factors = fit_factors(history, regularization=1.5, confidence=3.0, factors=8)
    for exponent in (0.0, 0.6):
        expected = solve(history, exponent, factors)
        np.testing.assert_allclose(score_users(factors, history, exponent), expected, atol=1e-4)


def test_a_fit_lowers_the_loss_until_it_is_least() -> None:
    """More iterations change the factors little, and any other solution for an item is worse."""
    history = build_history()
    factors = fit_factors(history, regularization=1.5, confidence=3.0, factors=8)
    factors = factors.fit(history, 30)
    refit = factors.fit(history, 1)
    np.testing.assert_allclose(refit.item_factors, factors.item_factors, atol=5e-3)
    scores = score_users(refit, history, 0.0)
    had = history.recency_weights(0.0).toarray() > 0
    assert scores[had].mean() > scores[~had].mean() + 0.3


def test_weighty_events_are_fitted_more_closely() -> None:
    history = build_history()
    weights = np.random.default_rng(0).choice([0.25, 1.0], len(history.items)).astype(np.float32)
    object.__setattr__(history, "weights", weights)
    factors = fit_factors(history, regularization=1.5, confidence=3.0, factors=4)
    scores = score_users(factors, history, 0.0)
    fitted = scores[history.owners, history.items]
    assert fitted[weights == 1].mean() > fitted[weights < 1].mean() + 0.02


def test_fewer_items_than_factors_bound_the_factors() -> None:
    factors = fit_factors(
        history_of([[0, 1], [1, 2]], 3), regularization=1.5, confidence=3.0, factors=64
    )
    assert factors.item_factors.shape == (3, 3)


def test_other_items_keep_their_factors_and_new_ones_have_none() -> None:
    factors = fit_factors(build_history(), regularization=1.5, confidence=3.0, factors=4)
    moved = factors.with_items(np.array([2, -1, 0], np.int32)).item_factors
    assert (moved[[0, 2]] == factors.item_factors[[2, 0]]).all()
    assert not moved[1].any()
