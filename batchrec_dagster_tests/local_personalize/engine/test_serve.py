"""Tests of the best items of rows and users, compared with a sort of all items."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.engine import serve
from batchrec_dagster.local_personalize.engine.blend import train
from batchrec_dagster.local_personalize.engine.data import Float32
from batchrec_dagster.local_personalize.engine.serve import recommend, top_k
from batchrec_dagster_tests.local_personalize.engine.support import interactions_of, lists, tastes


def sort_rows(scores: Float32, k: int) -> list[list[int]]:
    """Return the k best columns of each row by a sort, padded with -1."""
    rows = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda column: (-row[column], column))
        best = [column for column in order if row[column] > -np.inf][:k]
        rows.append(best + [-1] * (k - len(best)))
    return rows


@given(st.integers(0, 5), st.integers(0, 300), st.integers(1, 7), st.sampled_from([1, 3, 1000]))
def test_the_best_columns_equal_a_sort(rows: int, n: int, k: int, values: int) -> None:
    rng = np.random.default_rng(rows + n)
    scores = rng.integers(-values, values, (rows, n)).astype(np.float32)
    scores[rng.random((rows, n)) < 0.2] = -np.inf
    assert top_k(scores, k).tolist() == sort_rows(scores, k)


def test_rows_of_equal_scores_and_rows_without_any() -> None:
    scores = np.zeros((3, 5000), np.float32)
    scores[1] = -np.inf
    scores[2, 4990:] = 1
    assert top_k(scores, 3).tolist() == [[0, 1, 2], [-1, -1, -1], [4990, 4991, 4992]]


def test_lists_do_not_depend_on_chunks_and_begin_longer_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = interactions_of(tastes())
    model, _ = train(data, None, {}, lambda _: None)
    users = [*data.user_ids, "stranger"]
    long = lists(model, users, data, 30)
    assert long[-1] == model.item_ids[:30].tolist()
    assert [items[:7] for items in long] == lists(model, users, data, 7)
    monkeypatch.setattr(serve, "LEAST_CHUNK", 1)
    monkeypatch.setattr(serve, "CHUNK_SCORES", 100)
    assert lists(model, users, data, 30) == long


def test_excluded_items_are_left_out_and_do_not_change_scores() -> None:
    data = interactions_of(tastes())
    model, _ = train(data, None, {}, lambda _: None)

    def exclude(block: slice, scores: Float32) -> None:
        scores[:, ::2] = -np.inf

    [free] = recommend(model, ["u1"], data, 40)
    [left] = recommend(model, ["u1"], data, 40, exclude)
    is_left = free.items[0] % 2 == 1
    assert left.items[0].tolist() == free.items[0][is_left].tolist() + [-1] * 20
    np.testing.assert_allclose(left.scores[0, :20], free.scores[0][is_left])
    assert not left.scores[0, 20:].any()
    assert free.scores.sum() == pytest.approx(1)
