"""Metrics, compared with cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import evaluation
from batchrec_dagster.local_personalize.learning.evaluation import Evaluation, evaluate, split_users
from batchrec_dagster.local_personalize.learning.measurements import PopularityModel
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of

HITS_AT_2_AND_5 = np.array([[False, True, False, False, True]])


def test_matches_the_developer_guides_example() -> None:
    """Personalize's worked example: hits at 2 and 5 of five, two relevant items."""
    assert evaluation.reciprocal_rank(HITS_AT_2_AND_5).tolist() == [0.5]
    assert evaluation.ndcg(HITS_AT_2_AND_5, np.array([2])) == pytest.approx([0.6241], abs=5e-5)
    assert evaluation.precision(HITS_AT_2_AND_5).tolist() == [0.4]


def test_a_perfect_list_has_ndcg_1_for_any_number_of_relevant_items() -> None:
    hits = np.array([[True, True, False], [True, True, True], [True, True, True]])
    assert evaluation.ndcg(hits, np.array([2, 3, 100])).tolist() == [1.0, 1.0, 1.0]


def test_no_hit_scores_0() -> None:
    hits = np.zeros((1, 5), dtype=bool)
    assert evaluation.reciprocal_rank(hits).tolist() == [0.0]
    assert evaluation.ndcg(hits, np.array([3])).tolist() == [0.0]


def test_the_summary_averages_over_users_with_personalizes_keys() -> None:
    hits = np.zeros((2, 25), dtype=bool)
    hits[0, 0] = True  # the first user's only relevant item, at position 1
    hits[1, 9] = True  # the second's at position 10
    recommended = np.tile(np.arange(25, dtype=np.int32), (2, 1))
    recommended[1, 20:] = -1
    item_ids = np.array([f"i{n}" for n in range(50)], dtype=object)
    chosen = csr_matrix(([1, 1], ([0, 1], [0, 9])), shape=(2, 50))
    users = np.arange(2, dtype=np.int32)
    found = Evaluation(hits, np.array([1, 1]), recommended, users, chosen, item_ids)
    assert found.summary() == pytest.approx(
        {
            "coverage": 0.5,
            "mean_reciprocal_rank_at_25": (1 + 1 / 10) / 2,
            "normalized_discounted_cumulative_gain_at_5": 0.5,
            "normalized_discounted_cumulative_gain_at_10": (1 + 1 / np.log2(11)) / 2,
            "normalized_discounted_cumulative_gain_at_25": (1 + 1 / np.log2(11)) / 2,
            "precision_at_5": 0.1,
            "precision_at_10": 0.1,
            "precision_at_25": 0.04,
        }
    )


def test_the_summary_without_users_is_0() -> None:
    nobody, no_lists = np.zeros(0, np.int32), np.zeros((0, 25), np.int32)
    item_ids = np.array(["a", "b", "c"], dtype=object)
    relevant = np.zeros(0, np.int64)
    none = Evaluation(no_lists > 0, relevant, no_lists, nobody, csr_matrix((0, 3)), item_ids)
    assert set(none.summary().values()) == {0.0}


def test_items_of_the_input_are_not_relevant() -> None:
    """Of ten interactions of a held-out user, nine are the input and the tenth is relevant."""
    held = [("a", f"i{n}", n) for n in range(10)]
    repeating_rows = [("b", f"i{min(n, 8)}", n) for n in range(10)]  # the tenth is the ninth again
    data = interactions_of([*held, *repeating_rows, ("c", "other", 0)])
    model = PopularityModel(data.item_ids, np.zeros(len(data.item_ids), np.float32))
    found = evaluate(model, split_users(data, np.array([0, 1], np.int32)))
    # Left for user a: i9 and `other`, equally popular here; the ids' order puts i9 first.
    assert found.relevant.tolist() == [1]
    assert np.flatnonzero(found.hits[0]).tolist() == [0]
    assert [data.item_ids[item] for item in found.recommended[0] if item >= 0] == ["i9", "other"]
    assert found.summary()["mean_reciprocal_rank_at_25"] == 1.0
    assert found.ndcg().tolist() == [1.0]
