"""The features of the Items dataset, the component that scores by them, and new items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import content, new_items, train_blend
from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.components import (
    CONTENT,
    SEQUENCE,
)
from batchrec_dagster.local_personalize.learning.interactions import (
    Float32,
    Histories,
    History,
    Interactions,
)
from batchrec_dagster.local_personalize.learning.item_features import (
    BUCKETS,
    MAX_FEATURES,
    ItemFeatures,
    read_features,
)
from batchrec_dagster.local_personalize.learning.model_selection import Blend
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize.schemas import Field
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of, lists, tastes

RECIPE = "aws-user-personalization"
TYPES = {"GENRES": "string", "YEAR": "int", "ADULT": "boolean", "CREATION_TIMESTAMP": "long"}
NEWEST = 59_011  # the last moment of `tastes`


def features_of(**columns: Sequence[object]) -> ItemFeatures | None:
    """The features of items with these columns; ITEM_ID must be one of them."""
    frame = pl.DataFrame(columns, strict=False)
    fields = [Field(name, TYPES.get(name, "string")) for name in columns]
    return read_features(fields, lambda name: frame.select("ITEM_ID", name))


def halves(new: int = 2, **columns: Sequence[object]) -> ItemFeatures:
    """Each item of `tastes` and its half, and new items of each half."""
    ids = [f"i{n}" for n in range(40)] + [f"{kind}{n}" for n in range(new) for kind in ("a", "b")]
    kinds = ["even" if n % 2 == 0 else "odd" for n in range(len(ids))]
    features = features_of(ITEM_ID=ids, GENRES=kinds, **columns)
    assert features is not None
    return features


def train_model(features: ItemFeatures | None) -> tuple[BlendModel, Interactions]:
    """The model of `tastes`, with its interactions."""
    data = interactions_of(tastes())
    model = train(RECIPE, replace(data, features=features), {}).model
    assert isinstance(model, BlendModel)
    return model, data


def test_rare_categories_weigh_more_and_rows_have_length_1() -> None:
    genres = ["a|b", " a ", "a|c", "c|a|a", "", None, "d"]
    found = features_of(ITEM_ID=list("1234567"), GENRES=genres)
    assert found is not None
    assert found.matrix.shape == (7, 2)  # a and c: b and d are of a single item
    dense = found.matrix.toarray()
    assert dense[0].tolist() == dense[1].tolist() == [1, 0]
    assert dense[2].tolist() == dense[3].tolist()
    assert dense[2, 1] > dense[2, 0] > 0
    assert not dense[4:].any()
    assert np.linalg.norm(dense[2]) == pytest.approx(1)


def test_numbers_are_bucketed_and_missing_ones_have_no_feature() -> None:
    years = [*range(100), None]
    found = features_of(ITEM_ID=[str(n) for n in range(101)], YEAR=years)
    assert found is not None
    assert found.matrix.shape == (101, BUCKETS)
    assert np.diff(found.matrix.indptr).tolist() == [1] * 100 + [0]
    assert found.matrix.indices[0] == found.matrix.indices[5] != found.matrix.indices[99]


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


def test_textual_columns_are_not_read() -> None:
    assert (
        read_features([Field("ITEM_ID", "string"), Field("T", "string", textual=True)], pytest.fail)
        is None
    )


def test_the_last_row_of_an_item_counts() -> None:
    found = features_of(ITEM_ID=["1", "2", "3", "1"], GENRES=["a", "b", "a", "b"])
    assert found is not None
    of = dict(zip(found.item_ids, found.matrix.toarray().tolist(), strict=True))
    assert of == {"1": [1], "2": [1], "3": [0]}  # b


def test_very_many_values_are_cut_to_the_most_frequent() -> None:
    values = [f"v{n // 2}" for n in range(4_000)]
    found = features_of(ITEM_ID=[str(n) for n in range(4_000)], GENRES=["x|" + v for v in values])
    assert found is not None
    assert found.matrix.shape == (4_000, MAX_FEATURES)


def test_the_weights_are_the_two_regressions() -> None:
    rng = np.random.default_rng(0)
    features = halves(0)
    matrix = csr_matrix((rng.random((30, 40)) < 0.3).astype(np.float32))
    rows = features.select_rows(np.arange(40, dtype=np.int32))
    scorer = content.fit(matrix, rows)
    lengths = np.sqrt(np.maximum(np.diff(matrix.indptr), 1))[:, None]
    profiles, dense = (matrix @ rows).toarray() / lengths, rows.toarray()
    size = dense.shape[1]
    of_users = np.linalg.inv(profiles.T @ profiles + 0.01 * 30 * np.eye(size))
    of_items = np.linalg.inv(dense.T @ dense + np.eye(size))
    expected = of_users @ profiles.T @ profiles @ of_items
    assert scorer.weights == pytest.approx(expected, rel=1e-4)
    restored_scorer = content.ContentScorer.from_arrays(scorer.arrays())
    assert (restored_scorer.features != scorer.features).nnz == 0


def test_scores_are_laid_out_user_by_user_as_rankings_read_them() -> None:
    model, data = train_model(halves())
    history = Histories(data, model.item_ids).of_users(
        np.arange(len(data.user_ids), dtype=np.int32)
    )
    assert model.new_items is not None
    scorer = model.new_items.scorer
    scores = scorer.score(history, 0.3)
    profiles = history.recency_weights(0.3).toarray() @ scorer.features.toarray()
    assert scores == pytest.approx(profiles @ scorer.weights @ scorer.features.toarray().T, 1e-4)
    assert scores.flags.c_contiguous


def test_new_items_go_to_those_who_like_their_kind() -> None:
    model, data = train_model(halves())
    assert sorted(model.item_ids[40:]) == ["a0", "a1", "b0", "b1"]
    even, odd = lists(model, ["u0", "u1"], data, 20)
    assert {"a0", "a1"} <= set(even)
    assert not {"b0", "b1"} & set(even)
    assert {"b0", "b1"} <= set(odd)
    assert not {"a0", "a1"} & set(odd)


def test_the_weight_bounds_the_share_of_new_items() -> None:
    model, data = train_model(halves(20))
    users = data.user_ids.tolist()
    most_at_lower_weight = 0
    for weight in (0.05, 0.1, 0.3, 1.0):
        lists_of_users = lists(model.with_exploration(weight, np.inf), users, data, 20)
        most_new_items = max(
            sum(not item.startswith("i") for item in items) for items in lists_of_users
        )
        assert most_at_lower_weight < most_new_items <= weight * 20
        assert all(len(set(items)) == 20 for items in lists_of_users)
        most_at_lower_weight = most_new_items


def test_weight_0_gives_the_lists_without_new_items() -> None:
    model, data = train_model(halves())
    off = model.with_exploration(0, np.inf)
    assert off.item_ids.tolist() == model.item_ids[:40].tolist()
    assert off.new_items is None
    for items in lists(off, data.user_ids.tolist(), data, 40):
        assert not {"a0", "a1", "b0", "b1"} & set(items)


def test_the_age_of_new_items_is_bounded_where_it_is_known() -> None:
    day = 86_400
    creation_times = [0] * 40 + [NEWEST - 2 * day, NEWEST, None, NEWEST + day]
    model, _ = train_model(halves(CREATION_TIMESTAMP=creation_times))
    assert model.item_ids[40:].tolist() == ["b1", "b0", "a0", "a1"]  # the newest first
    assert model.with_exploration(0.3, 1).item_ids[40:].tolist() == ["b1", "b0", "a1"]


def test_the_newest_of_very_many_new_items_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_items, "MAX_NEW_ITEMS", 3)
    model, _ = train_model(halves(5))
    assert model.item_ids[40:].tolist() == ["b4", "a4", "b3"]


def test_new_items_of_large_catalogues_are_scored_for_a_few_users_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = train_model(halves())
    histories = Histories(data, model.item_ids)
    history = histories.of_users(histories.users(data.user_ids))
    at_once, rows, score = model.score(history), set(), content.ContentScorer.score

    def count_rows_and_score(
        self: content.ContentScorer, some: History, exponent: float
    ) -> Float32:
        rows.add(len(some.lengths))
        return score(self, some, exponent)

    monkeypatch.setattr(content.ContentScorer, "score", count_rows_and_score)
    monkeypatch.setattr(new_items, "SCORES", 7 * 40)
    np.testing.assert_allclose(model.score(history), at_once, rtol=1e-5)
    assert rows >= {7, 4}


def test_interactions_with_new_items_count_for_their_kind() -> None:
    model, _ = train_model(halves(3))
    later_interactions = interactions_of(
        [*tastes(), ("fresh", "b0", 10**6), ("other", "a0", 10**6)]
    )
    fresh, other = lists(model, ["fresh", "other"], later_interactions, 46)
    place = fresh.index("b1"), fresh.index("a1")
    assert place[0] < place[1]
    assert other.index("a1") < other.index("b1")
    assert [i for i in fresh if i[0] == "i"] == [i for i in other if i[0] == "i"]  # popular ones


def test_without_features_the_model_is_as_before(tmp_path: Path) -> None:
    plain, _ = train_model(None)
    assert plain.new_items is None
    assert CONTENT not in plain.scorers
    plain.save(tmp_path)
    assert not list(tmp_path.glob("new-items*"))
    assert plain.with_exploration(1.0, np.inf) is plain


def test_a_saved_model_gives_the_same_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = Blend({CONTENT: 0.6, SEQUENCE: 0.6}, {CONTENT: 1.0, SEQUENCE: 1.0}, 0.0)
    monkeypatch.setattr(train_blend, "select_blend", lambda sets, recency, options: choice)
    model, data = train_model(halves())
    model.save(tmp_path)
    loaded_model = load_model(tmp_path)
    assert isinstance(loaded_model, BlendModel)
    assert set(loaded_model.scorers) == {CONTENT, SEQUENCE}
    assert loaded_model.new_items is not None
    users = data.user_ids.tolist()
    assert lists(loaded_model, users, data, 25) == lists(model, users, data, 25)
