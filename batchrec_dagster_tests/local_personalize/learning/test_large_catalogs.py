"""Large catalogues are fitted and scored piece by piece, with the results of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from batchrec_dagster.local_personalize.learning import (
    components,
    cooccurrence,
    serving,
)
from batchrec_dagster.local_personalize.learning.components import FactorScorer, PopularityScorer
from batchrec_dagster.local_personalize.learning.interactions import History

N_ITEMS = 2_500
NUMBERS = np.random.default_rng(5)


def histories(users: int) -> History:
    lengths = NUMBERS.integers(1, 30, users)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    items = np.concatenate([NUMBERS.choice(N_ITEMS, n, replace=False) for n in lengths])
    ranks = np.concatenate([np.arange(n, dtype=np.float32) for n in lengths])
    return History(starts, items.astype(np.int32), ranks, N_ITEMS)


@pytest.mark.parametrize("users", [1, 40])
def test_scores_that_are_added_are_those_of_the_component(
    users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "CACHED", 1)  # so that the columns are three pieces
    factors = NUMBERS.standard_normal((N_ITEMS, 8)).astype(np.float32)
    counts = NUMBERS.random(N_ITEMS).astype(np.float32)
    history = histories(users)
    for scorer in (FactorScorer(factors, 1.5, 3.0), PopularityScorer(counts)):
        logits = NUMBERS.standard_normal((users, N_ITEMS)).astype(np.float32)
        expected = logits + np.float32(1.7) * scorer.score(history, 0.3)
        scorer.add(logits, history, 0.3, 1.7)
        assert np.allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_the_sums_of_a_softmax_do_not_depend_on_how_rows_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = (5 * NUMBERS.standard_normal((7, 400))).astype(np.float32)
    logits[3] = 1000.0
    at_once = serving.logsumexp(logits)
    monkeypatch.setattr(serving, "CACHED_SCORES", 1_000)  # two rows and a last one
    assert np.array_equal(serving.logsumexp(logits), at_once)
    assert np.allclose(at_once[:3, 0], np.log(np.exp(logits[:3].astype(float)).sum(axis=1)))
    assert np.isclose(at_once[3, 0], 1000 + np.log(400))
    assert serving.logsumexp(logits[:0]).shape == (0, 1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("cells", [1, 3, 1_000_000])  # all items sparse, some, none
def test_co_occurrences_are_the_same_in_each_way(
    cells: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = histories(300)
    popular = History(history.starts, history.items // 4 * 4, history.ranks, N_ITEMS)
    once = cooccurrence.fit(popular, window=5, neighbors=20, symmetric=symmetric)
    monkeypatch.setattr(cooccurrence, "MANY_ITEMS", N_ITEMS - 1)
    monkeypatch.setattr(cooccurrence, "CELLS_OF_MANY", N_ITEMS * cells // 100)
    monkeypatch.setattr(cooccurrence, "PAIRS", 40)  # several batches of pairs for an item
    popular_weights = cooccurrence.fit(popular, window=5, neighbors=20, symmetric=symmetric)
    assert popular_weights.indptr.tolist() == once.indptr.tolist()
    assert np.allclose(np.sort(popular_weights.data), np.sort(once.data))
    differences = abs(once - popular_weights)
    assert (differences > 1e-5).nnz <= 0.02 * once.nnz  # ties, where sums are rounded differently
