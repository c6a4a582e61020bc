"""The least squares of FactorScorer, compared with those of the library implicit."""

from __future__ import annotations

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import components
from batchrec_dagster.local_personalize.learning.components import FactorScorer, fit_factors
from batchrec_dagster.local_personalize.learning.interactions import History

ITEMS, FACTORS, REGULARIZATION = 40, 8, 3.0


def test_scores_are_those_of_implicits_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    # implicit has the same regularization for all users.
    monkeypatch.setattr(components, "ALS_EXPONENT", 0.0)
    rng = np.random.default_rng(0)
    lengths = np.array([12, 0, 1, 30])
    items = np.concatenate([rng.permutation(ITEMS)[:length] for length in lengths])
    ranks = np.concatenate([np.arange(length) for length in lengths])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    history = History(starts, items.astype(np.int32), ranks.astype(np.float32), ITEMS)
    factors = rng.normal(size=(ITEMS, FACTORS)).astype(np.float32)

    solver = AlternatingLeastSquares(
        factors=FACTORS, regularization=REGULARIZATION, num_threads=1, random_state=0
    )
    solver.item_factors = factors
    some = lengths > 0
    expected = solver.recalculate_user(np.flatnonzero(some), history.recency_weights(0.6)[some])

    scores = FactorScorer(factors, REGULARIZATION, 1.0).score(history, 0.6)
    assert scores[some] == pytest.approx(expected @ factors.T, abs=1e-4)
    assert not scores[~some].any()


def tastes(users: int, items: int, kinds: int) -> csr_matrix:
    """Ones where a user has an item: half of those of the user's kind, a tenth of the others."""
    rng = np.random.default_rng(1)
    is_same_kind = np.arange(users)[:, None] % kinds == np.arange(items) % kinds
    return csr_matrix(
        rng.random((users, items)) < np.where(is_same_kind, 0.5, 0.1), dtype=np.float32
    )


def test_a_fit_is_as_good_as_one_that_goes_on() -> None:
    matrix = tastes(users=300, items=200, kinds=5)
    fitted = fit_factors(matrix, factors=8, seed=0)
    going_on = fitted
    for _ in range(5):
        going_on = fit_factors(matrix, seed=0, start=going_on)
    assert separation(fitted, matrix) > 0.9 * separation(going_on, matrix) > 0.15


def separation(scorer: FactorScorer, matrix: csr_matrix) -> float:
    """How much higher the items that users have score than the others, on average."""
    lengths = np.diff(matrix.indptr)
    starts = matrix.indptr.astype(np.int64)
    ranks = np.concatenate([np.arange(length) for length in lengths]).astype(np.float32)
    history = History(starts, matrix.indices.astype(np.int32), ranks, matrix.shape[1])
    scores, has = scorer.score(history, 0.0), matrix.toarray() > 0
    return float(scores[has].mean() - scores[~has].mean())


def test_fewer_items_than_factors_bound_the_factors() -> None:
    assert fit_factors(tastes(30, 6, 2), factors=64, seed=0).item_factors.shape == (6, 6)
