"""Tests of the Items dataset's features, of the component that uses them, and of new items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.engine import blend
from batchrec_dagster.local_personalize.engine.blend_model import BlendModel, NewItems
from batchrec_dagster.local_personalize.engine.content import (
    BUCKETS,
    MAX_FEATURES,
    ContentScorer,
    ItemFeatures,
    fit_content,
    read_features,
)
from batchrec_dagster.local_personalize.engine.data import Float32, Interactions
from batchrec_dagster.local_personalize.engine.select import score_users
from batchrec_dagster.personalize.schemas import Field
from batchrec_dagster_tests.local_personalize.engine.support import (
    history_of,
    interactions_of,
    lists,
    tastes,
)

TYPES = {"GENRES": "string", "YEAR": "int", "ADULT": "boolean", "CREATION_TIMESTAMP": "long"}
NEWEST = 59_011  # the last moment of `tastes`


def features_of(**columns: Sequence[object]) -> ItemFeatures | None:
    """Return the features of items with these columns, which must include ITEM_ID."""
    frame = pl.DataFrame(columns, strict=False)
    fields = [Field(name, TYPES.get(name, "string")) for name in columns]
    return read_features(fields, lambda name: frame.select("ITEM_ID", name))


def halves(new: int = 2, **columns: Sequence[object]) -> ItemFeatures:
    """Return features with the half of each item of `tastes`, and new items of each half."""
    ids = [f"i{n}" for n in range(40)] + [f"{kind}{n}" for n in range(new) for kind in ("a", "b")]
    kinds = ["even" if n % 2 == 0 else "odd" for n in range(len(ids))]
    features = features_of(ITEM_ID=ids, GENRES=kinds, **columns)
    assert features is not None
    return features


def train_model(features: ItemFeatures | None) -> tuple[BlendModel, Interactions]:
    """Return a model trained on `tastes`, and the interactions."""
    data = interactions_of(tastes())
    return blend.train(data, features, {}, lambda _: None)[0], data


def test_rare_categories_weigh_more_and_rows_have_length_1() -> None:
    genres = ["a|b", " a ", "a|c", "c|a|a", "", None, "d"]
    features = features_of(ITEM_ID=list("1234567"), GENRES=genres)
    assert features is not None
    assert features.matrix.shape == (7, 2)  # features a and c: only a single item has b or d
    dense = features.matrix.toarray()
    assert dense[0].tolist() == dense[1].tolist() == [1, 0]
    assert dense[2].tolist() == dense[3].tolist()
    assert dense[2, 1] > dense[2, 0] > 0
    assert not dense[4:].any()
    assert np.linalg.norm(dense[2]) == pytest.approx(1)


def test_numbers_are_bucketed_and_missing_ones_have_no_feature() -> None:
    years = [*range(100), None]
    features = features_of(ITEM_ID=[str(n) for n in range(101)], YEAR=years)
    assert features is not None
    assert features.matrix.shape == (101, BUCKETS)
    assert np.diff(features.matrix.indptr).tolist() == [1] * 100 + [0]
    buckets = features.matrix.indices
    assert buckets[0] == buckets[5] != buckets[99]


@pytest.mark.parametrize(
    "cells",
    [
        [None] * 50,
        ["same"] * 50,
        [f"own {n}" for n in range(50)],
        ["", "|", " | "] + [None] * 47,
    ],
)
def test_a_column_that_tells_nothing_is_no_feature(cells: list[object]) -> None:
    assert features_of(ITEM_ID=[str(n) for n in range(50)], GENRES=cells) is None


def test_numbers_that_are_all_missing_are_no_feature() -> None:
    assert features_of(ITEM_ID=["1", "2"], YEAR=[None, None]) is None


def test_textual_columns_are_not_read() -> None:
    fields = [Field("ITEM_ID", "string"), Field("T", "string", textual=True)]
    assert read_features(fields, pytest.fail) is None


def test_the_last_row_of_an_item_counts() -> None:
    features = features_of(ITEM_ID=["1", "2", "3", "1"], GENRES=["a", "b", "a", "b"])
    assert features is not None
    of = dict(zip(features.item_ids, features.matrix.toarray().tolist(), strict=True))
    assert of == {"1": [1], "2": [1], "3": [0]}  # b


def test_very_many_values_are_cut_to_the_most_frequent() -> None:
    genres = [f"x|v{n // 2}" for n in range(4_000)]
    features = features_of(ITEM_ID=[str(n) for n in range(4_000)], GENRES=genres)
    assert features is not None
    assert features.matrix.shape == (4_000, MAX_FEATURES)


def test_the_weights_are_the_two_regressions() -> None:
    rng = np.random.default_rng(0)
    history = history_of([rng.permutation(40)[:12].tolist() for _ in range(30)], 40)
    rows = halves(0).of_items(np.array([f"i{n}" for n in range(40)], dtype=object))
    scorer = fit_content(history, rows)
    matrix, dense = history.recency_weights(0.0), rows.toarray()
    profiles = matrix @ dense / np.sqrt(history.lengths)[:, None]
    of_users = np.linalg.inv(profiles.T @ profiles + 0.01 * 30 * np.eye(2))
    of_items = np.linalg.inv(dense.T @ dense + np.eye(2))
    assert scorer.weights == pytest.approx(of_users @ profiles.T @ profiles @ of_items, rel=1e-4)
    expected = history.recency_weights(0.3) @ dense @ scorer.weights @ dense.T
    assert score_users(scorer, history, 0.3) == pytest.approx(expected, rel=1e-4)


def test_new_items_go_to_users_who_like_their_kind() -> None:
    model, data = train_model(halves())
    found = lists(model, ["u0", "u1", "u2", "u3"], data, 10)
    new = [[item for item in items if item[0] in "ab"] for items in found]
    assert new == [["a1", "a0"], ["b1", "b0"], ["a1", "a0"], ["b1", "b0"]]  # the later rows first


def test_the_share_bounds_new_items_in_all_beginnings_of_a_list() -> None:
    model, data = train_model(halves(new=20))
    for share in (0.1, 0.3, 0.5, 1.0):
        for items in lists(model.with_exploration(share, 30), ["u0", "u1"], data, 30):
            is_new = np.array([item[0] in "ab" for item in items])
            places = np.arange(1, len(items) + 1)
            assert (np.cumsum(is_new) <= share * places + 1e-9).all()
            assert is_new[:20].sum() == int(20 * share)
            assert len(set(items)) == 30


def test_no_share_gives_the_lists_without_new_items() -> None:
    plain, data = train_model(None)
    model, _ = train_model(halves())
    without = model.with_exploration(0.0, 30)
    assert without.item_ids.tolist() == plain.item_ids.tolist()
    assert not [
        item for items in lists(without, ["u0"], data, 50) for item in items if item[0] in "ab"
    ]


def test_a_stranger_gets_no_new_items() -> None:
    model, data = train_model(halves())
    assert lists(model, ["stranger"], data, 40) == [model.item_ids[:40].tolist()]


def test_the_age_of_new_items_is_bounded_where_it_is_known() -> None:
    day = 86_400
    created = [0] * 40 + [NEWEST - 40 * day, NEWEST - 40 * day, None, NEWEST - 10 * day]
    model, _ = train_model(halves(CREATION_TIMESTAMP=created))
    assert set(model.item_ids[40:]) == {"a0", "b0", "a1", "b1"}
    assert set(model.with_exploration(0.3, 30).item_ids[40:]) == {"a1", "b1"}


def test_the_newest_of_very_many_new_items_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blend, "MAX_NEW_ITEMS", 3)
    model, _ = train_model(halves(new=5))
    assert model.item_ids[40:].tolist() == ["b4", "a4", "b3"]


def choose(
    own: list[float], new: list[float], share: float, excluded: Sequence[int] = ()
) -> list[int]:
    """Return four items for a user who likes all items, by the scores of known and new items."""
    features = csr_matrix(np.ones((len(own) + len(new), 1), np.float32))
    new_items = NewItems(ContentScorer(features, np.ones((1, 1), np.float32)), np.array(new), share)
    scores: Float32 = np.array([[*own, *new]], np.float32)
    scores[0, excluded] = -np.inf
    history = history_of([[0]], len(own) + len(new))
    return [int(item) for item in new_items.choose(scores, history, 4)[0]]


def test_new_items_follow_when_the_other_ones_run_out() -> None:
    assert choose([3, 2, 1], [0, 0, 0], 0.5) == [0, 3, 1, 4]
    assert choose([3, 2, 1], [0, 0, 0], 0.5, [1, 2]) == [0, 3, 4, 5]
    assert choose([3, 2, 1], [0, 0, 0], 0.5, [0, 1, 2, 3]) == [4, 5, -1, -1]
    assert choose([3, 2, 1, 0], [0, 0, 0], 0.5, [4, 5, 6]) == [0, 1, 2, 3]
    assert choose([3, 2, 1, 0], [0, 0, 0], 1.0) == [4, 5, 6, 0]
