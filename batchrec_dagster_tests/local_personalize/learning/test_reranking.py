"""rank sorts given lists by the scores of recommend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import serving
from batchrec_dagster.local_personalize.learning.interactions import History
from batchrec_dagster.local_personalize.learning.serving import UserModel, exclude_entries
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import (
    for_users,
    interactions_of,
    tastes,
)

RECIPES = ["aws-personalized-ranking", "aws-personalized-ranking-v2", "aws-popularity-count"]


@cache
def train_model(recipe: str) -> UserModel:
    return for_users(train(recipe, interactions_of(tastes()), {}).model)


def rerank(
    model: UserModel, users: Sequence[str], queries: Sequence[Sequence[int]], exclude: object = None
) -> tuple[list[list[int]], list[npt.NDArray[np.float64]]]:
    """Each user's list and scores, without padding."""
    chunks = list(
        model.rank(
            users,
            [np.array(items, np.int32) for items in queries],
            interactions_of(tastes()),
            exclude=exclude,  # type: ignore[arg-type]
        )
    )
    rows = [row[row >= 0].tolist() for chunk in chunks for row in chunk.items]
    ranked_scores = [
        s[i >= 0] for chunk in chunks for i, s in zip(chunk.items, chunk.scores, strict=True)
    ]
    return rows, ranked_scores


@pytest.mark.parametrize("recipe", RECIPES)
def test_rank_orders_and_scores_like_recommend(recipe: str) -> None:
    data = interactions_of(tastes())
    model = train_model(recipe)
    users = ["u0", "u1", "nobody"]
    [whole] = model.recommend(users, data, len(data.item_ids))
    queries = [[3, 1, 4, 15, 9, 26], [5], [35, 8, 9]]
    rows, scores = rerank(model, users, queries)
    for user, items in enumerate(queries):
        expected = [i for i in whole.items[user].tolist() if i in items]
        assert rows[user] == expected
        shares = np.array([whole.scores[user][whole.items[user] == i][0] for i in expected])
        assert scores[user] == pytest.approx(shares / shares.sum(), rel=1e-4)
        assert scores[user].sum() == pytest.approx(1)


def test_forbidden_items_are_left_out_and_scores_sum_to_1() -> None:
    model = train_model(RECIPES[0])
    forbidden = np.zeros((3, 40), np.float32)
    forbidden[0, [1, 4]] = 1
    forbidden[1] = 1
    rows, scores = rerank(
        model, ["u0", "u1", "u2"], [[3, 1, 4], [5, 6], []], exclude_entries(csr_matrix(forbidden))
    )
    assert rows == [[3], [], []]
    assert [row.tolist() for row in scores] == [[1.0], [], []]


def test_no_users_and_empty_lists() -> None:
    model = train_model(RECIPES[0])
    assert rerank(model, [], []) == ([], [])
    assert rerank(model, ["u0"], [[]])[0] == [[]]


def test_chunks_do_not_change_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    model = train_model(RECIPES[0])
    users = [f"u{n}" for n in range(60)]
    queries = [list(range(n % 7, 40, 1 + n % 5)) for n in range(60)]
    rows, scores = rerank(model, users, queries)
    monkeypatch.setattr(serving, "EFFICIENT_CHUNK", 1)
    monkeypatch.setattr(serving, "CHUNK_SCORES", 7 * 10)
    again, again_scores = rerank(model, users, queries)
    assert again == rows
    for before, after in zip(scores, again_scores, strict=True):
        assert after == pytest.approx(before, rel=1e-4)


@given(st.data())
def test_ties_go_to_the_lower_index(data: st.DataObject) -> None:
    table = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), max_size=4)),
        np.float32,
    ).reshape(-1, 6)
    queries = [data.draw(st.permutations(range(6)))[: data.draw(st.integers(0, 6))] for _ in table]

    class Table(UserModel):
        item_ids = np.array(list("abcdef"), dtype=object)

        def score(self, history: History) -> npt.NDArray[np.float32]:
            return table[: len(history.lengths)].copy()

    chunks = Table().rank(
        ["x"] * len(table),
        [np.array(items, np.int32) for items in queries],
        interactions_of([("u", "a", 1)]),
    )
    rows = [row[row >= 0].tolist() for chunk in chunks for row in chunk.items]
    plain = [sorted(items, key=lambda i, row=row: (-table[row, i], i))  # type: ignore[misc]
             for row, items in enumerate(queries)]  # fmt: skip
    assert rows == plain
