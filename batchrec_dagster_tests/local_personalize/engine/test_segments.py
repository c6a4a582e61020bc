"""Tests of segments: users ranked for items, compared with the scores of all pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchrec_dagster.local_personalize.engine import segments, serve
from batchrec_dagster.local_personalize.engine.data import Int32, Interactions, read_histories
from batchrec_dagster.local_personalize.engine.segments import SegmentModel, train
from batchrec_dagster_tests.local_personalize.engine.support import interactions_of, tastes


@pytest.fixture(scope="module")
def data() -> Interactions:
    return interactions_of(tastes(users=150))


@pytest.fixture(scope="module")
def model(data: Interactions) -> SegmentModel:
    return train(data, None, {}, lambda _: None)[0]


def find_items(model: SegmentModel, *ids: str) -> Int32:
    return np.array([model.item_ids.tolist().index(item) for item in ids], np.int32)


def rank_plainly(model: SegmentModel, data: Interactions, items: Int32) -> list[int]:
    """Rank all users by the items' mean probability times the square root of their activity.

    A user does not get an item again.
    """
    users = np.arange(len(data.user_ids), dtype=np.int32)
    history = read_histories(data, model.item_ids, users)
    logits = model.model.score(history).astype(np.float64)
    logits[history.recency_weights(0.0).toarray() > 0] = -np.inf
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    affinity = chance[:, items].mean(axis=1) * np.sqrt(history.lengths)
    return [int(user) for user in np.argsort(-affinity, kind="stable")]


def test_segments_have_the_users_with_the_highest_affinity(
    model: SegmentModel, data: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [find_items(model, "i0"), find_items(model, "i1", "i3", "i5")]
    expected = [rank_plainly(model, data, items) for items in queries]
    for size, chunk, compacted in ((7, 256, 4096), (20, 3, 1), (500, 16, 1)):
        monkeypatch.setattr(serve, "LEAST_CHUNK", min(chunk, 32))
        monkeypatch.setattr(serve, "LARGEST_CHUNK", chunk)
        monkeypatch.setattr(segments, "LEAST_COMPACTED", compacted)
        found = model.list_users(queries, data, size)
        for users, order in zip(found, expected, strict=True):
            assert users.tolist()[:7] == order[:7]
            assert len(users) == min(size, len(order))


def test_customers_of_a_bakery_have_items_again() -> None:
    rows = [(user, item, 10**6 * day + time) for day in range(4) for user, item, time in tastes()]
    data = interactions_of(rows)
    model, _ = train(data, None, {}, lambda _: None)
    [users] = model.list_users([find_items(model, "i6")], data, 10)
    assert {data.user_ids[user] for user in users} <= {
        user for user, item, _ in rows if item == "i6"
    }


def test_users_of_the_items_taste_come_first(model: SegmentModel, data: Interactions) -> None:
    [users] = model.list_users([find_items(model, "i30")], data, 20)
    assert sum(int(data.user_ids[user][1:]) % 2 == 0 for user in users) >= 18


def test_only_allowed_users_are_considered(model: SegmentModel, data: Interactions) -> None:
    allowed = np.zeros(len(data.user_ids), bool)
    allowed[[3, 5, 8]] = True
    counts: list[int] = []
    [users] = model.list_users(
        [find_items(model, "i0")], data, 9, users=allowed, checkpoint=counts.append
    )
    assert sorted(users.tolist()) == [3, 5, 8]
    assert sum(counts) == 3


def test_metrics_are_better_than_chance() -> None:
    rows = tastes(users=1500, items=12, items_per_user=4)
    _, measurements = train(interactions_of(rows), None, {}, lambda _: None)
    metrics = measurements.metrics
    assert metrics["coverage"] == 1
    # About 33 of 400 tested users have one of 12 items next. 1 % of the users are 4.
    assert metrics["hits_at_1_percent"] > 2 * 4 / 12
    assert 0 < metrics["recall_at_1_percent"] < 1
    assert measurements.groups is None


@pytest.mark.parametrize("rows", [[("a", "x", 1)], [("a", "x", 1), ("b", "y", 2)]])
def test_data_without_tested_users_have_segments_and_no_metrics(
    rows: list[tuple[str, str, int]],
) -> None:
    data = interactions_of(rows)
    model, measurements = train(data, None, {}, lambda _: None)
    assert measurements.metrics == {}
    [users] = model.list_users([np.array([0], np.int32)], data, 5)
    assert len(users) == len(data.user_ids)


def test_a_saved_model_answers_the_same(
    model: SegmentModel, data: Interactions, tmp_path: Path
) -> None:
    model.save(tmp_path)
    loaded = SegmentModel.load(tmp_path)
    queries = [find_items(model, "i0")]
    [expected], [found] = (m.list_users(queries, data, 9) for m in (model, loaded))
    assert found.tolist() == expected.tolist()
