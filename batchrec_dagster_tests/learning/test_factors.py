"""The least squares of FactorScorer, compared with those of the library implicit."""

from __future__ import annotations

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares

from batchrec_dagster.local_personalize.learning.components import FactorScorer
from batchrec_dagster.local_personalize.learning.interactions import History

ITEMS, FACTORS, REGULARIZATION = 40, 8, 3.0


def test_scores_are_those_of_implicits_solver() -> None:
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

    scores = FactorScorer(factors, REGULARIZATION, 1.0, 0.0).score(history, 0.6)
    assert scores[some] == pytest.approx(expected @ factors.T, abs=1e-4)
    assert not scores[~some].any()
