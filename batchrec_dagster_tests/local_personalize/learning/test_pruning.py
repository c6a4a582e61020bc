"""Pruning of huge histories and of equal weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import fit_components, ranking, related
from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.components import ItemItemScorer
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import (
    Row,
    interactions_of,
    lists,
)

RECIPE = "aws-user-personalization"


def met(user: str, items: range) -> list[Row]:
    return [(user, f"i{item:05}", item) for item in items]


def giant() -> list[Row]:
    """300 users with 30 of 400 items each, and one user with 12,000."""
    some = np.random.default_rng(0).integers(0, 400, (300, 30))
    rows = [(f"u{user:03}", f"i{item:05}", n) for user, own in enumerate(some)
            for n, item in enumerate(own)]  # fmt: skip
    return [*rows, *met("giant", range(12_000))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        met("only", range(12_000)),
        [row for user in "abc" for row in met(user, range(6_000))],
        [
            row
            for n, user in enumerate("abc")
            for row in met(user, range(n * 4_000, n * 4_000 + 6_000))
        ],
        giant(),
    ],
    ids=["one user", "three alike", "three who overlap", "a giant among small ones"],
)
def test_huge_histories_give_full_lists_and_a_small_model(
    rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MAX_PAIRED", 1_000)
    data = interactions_of(rows)
    model = train(RECIPE, data, {}).model
    assert isinstance(model, BlendModel)
    for part in model.scorers.values():
        if isinstance(part, ItemItemScorer):
            assert part.weights.nnz <= fit_components.COOC_NEIGHBORS * len(data.item_ids)
    lists_of_users = lists(model, [*data.user_ids[:3], "nobody"], data, 25)
    assert [len(set(own)) for own in lists_of_users] == [25] * len(lists_of_users)


def choose_kept_columns(row: npt.NDArray[np.float32], kept_count: int) -> list[int]:
    order = sorted(np.flatnonzero(row).tolist(), key=lambda column: (-abs(row[column]), column))
    return sorted(order[:kept_count])


@given(
    values=st.lists(
        st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]), min_size=9, max_size=9),
        min_size=1,
        max_size=5,
    ),
    kept_count=st.integers(1, 10),
    backwards=st.booleans(),
)
@settings(deadline=None)
def test_keeps_exactly_the_largest_and_the_first_of_ties(
    values: list[list[float]], kept_count: int, backwards: bool
) -> None:
    rows = np.array(values, dtype=np.float32)
    sparse = csr_matrix(rows)
    if backwards:  # the columns of a sparse product come in any order
        sparse = csr_matrix(rows[:, ::-1])
        sparse.indices = (rows.shape[1] - 1 - sparse.indices).astype(np.int32)
        sparse.has_sorted_indices = False
    expected = [choose_kept_columns(row, kept_count) for row in rows]
    out = ranking.top_k_per_row(sparse, kept_count).toarray()
    assert [np.flatnonzero(row).tolist() for row in out] == expected
    assert (out[out != 0] == rows[out != 0]).all()


def test_similar_items_pair_only_the_newest_of_a_long_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "MAX_PAIRED", 2)
    newest_first = csr_matrix((np.ones(5, np.float32), [3, 1, 0, 2, 0], [0, 4, 5]), shape=(2, 4))
    weights = related.fit(newest_first, discount=0.5, min_cointeractions=1).toarray()
    assert sorted(zip(*np.nonzero(weights), strict=True)) == [(1, 3), (3, 1)]
