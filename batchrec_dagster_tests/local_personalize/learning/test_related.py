"""Similar items, compared with counts, and with unusual data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import related, serving, threads
from batchrec_dagster.local_personalize.learning.interactions import ModelFileError
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.serving import exclude_entries
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize.recipes import HyperparameterError
from batchrec_dagster_tests.local_personalize.learning.support import (
    Row,
    interactions_of,
    tastes,
    train_popular,
)

SIMS, SIMILAR = "aws-sims", "aws-similar-items"


def model_of(rows: list[Row], recipe: str = SIMS, **hyperparameters: str) -> RelatedItemsModel:
    model = train(recipe, interactions_of(rows), hyperparameters).model
    assert isinstance(model, RelatedItemsModel)
    assert isinstance(model, RelatedItemsModel)
    return model


def similar(
    model: RelatedItemsModel, items: list[str], num_results: int, forbidden: object = None
) -> list[list[str]]:
    """The similar items' ids, without padding."""
    exclude = exclude_entries(forbidden) if isinstance(forbidden, csr_matrix) else None
    return [
        [str(model.item_ids[item]) for item in row if item >= 0]
        for chunk in model.similar(items, num_results, exclude=exclude)
        for row in chunk.items
    ]


def pairs(**together: int) -> list[Row]:
    """For each key, so many users with all of its letters as items."""
    return [
        (f"{letters}-{n}", letter, place)
        for letters, users in together.items()
        for n in range(users)
        for place, letter in enumerate(letters)
    ]


def test_popularity_is_discounted_by_the_hyperparameter() -> None:
    # With a: p 6 times, of 26; q 4 times, of 4.
    rows = pairs(ap=6, aq=4, p=20)
    factors = {"0": "pq", "0.1": "pq", "0.5": "qp", "1": "qp"}
    for factor, order in factors.items():
        model = model_of(rows, popularity_discount_factor=factor)
        assert similar(model, ["a"], 2) == [list(order)]
    weights = model_of(rows).weights.toarray()
    ids = model_of(rows).item_ids.tolist()
    assert weights[ids.index("a"), ids.index("p")] == pytest.approx(6 * 6 / 16 / 26**0.5)
    assert weights[ids.index("q"), ids.index("a")] == pytest.approx(4 * 4 / 14 / 10**0.5)


def test_a_pair_needs_enough_users() -> None:
    rows = pairs(ab=2, ac=3, d=9)
    assert similar(model_of(rows), ["a"], 9) == [["c", "d", "b"]]  # then popular items
    assert similar(model_of(rows, min_cointeraction_count="2"), ["a"], 9) == [["c", "b", "d"]]
    assert similar(model_of(rows, min_cointeraction_count="4"), ["a"], 9) == [["d", "c", "b"]]
    assert similar(model_of(rows, SIMILAR), ["a"], 9) == [["c", "b", "d"]]


def test_one_user_counts_once_for_a_pair() -> None:
    rows = pairs(ab=4, ac=3) + [("ac-0", letter, 9 + n) for n in range(9) for letter in "ac"]
    assert similar(model_of(rows, min_cointeraction_count="1"), ["a"], 2) == [["b", "c"]]


@pytest.mark.parametrize("recipe", [SIMS, SIMILAR])
def test_unknown_items_get_popular_items_and_no_item_gets_itself(recipe: str) -> None:
    rows = tastes()
    model = model_of(rows, recipe)
    items = model.item_ids.tolist()
    found = similar(model, ["new", *items], 99)
    assert found[0] == items
    for item, row in zip(items, found[1:], strict=True):
        assert item not in row
        assert len(row) == len(items) - 1
    top, _ = similar(model, ["i0", "i1"], 8)
    assert sum(int(item[1:]) % 2 == 0 for item in top) >= 7  # the taste of i0


def test_forbidden_items_are_left_out() -> None:
    model = model_of(tastes())
    [free] = similar(model, ["i0"], 39)
    forbidden = np.zeros((2, 40), np.float32)
    forbidden[0, [model.item_ids.tolist().index(item) for item in free[:3]]] = 1
    forbidden[1] = 1
    found = similar(model, ["i0", "i0"], 10, csr_matrix(forbidden))
    assert found == [free[3:13], []]


def test_popular_and_rare_items_can_be_left_out_of_training() -> None:
    rows = pairs(ab=9, ac=4, d=1, b=9)
    model = model_of(rows, max_item_interaction_count_percentile="0.7")
    assert model.weights[:, [model.item_ids.tolist().index("b")]].nnz == 0
    assert similar(model, ["b"], 3) == [["a", "c", "d"]]
    assert model_of(rows, min_item_interaction_count_percentile="0.6").weights.nnz == 2


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_similarities_match_a_count(
    met: list[tuple[int, int]], least: int, discount: float
) -> None:
    users: dict[int, set[int]] = {}
    for user, item in met:
        users.setdefault(user, set()).add(item)
    counts = Counter(item for items in users.values() for item in items)
    together = Counter((a, b) for items in users.values() for a in items for b in items if a != b)
    matrix = csr_matrix((9, 7), dtype=np.float32).tolil()
    for user, items in users.items():
        matrix[user, list(items)] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(related, "BLOCK_COUNTS", 14)
        found = related.fit(matrix.tocsr(), discount=discount, min_cointeractions=least).toarray()
    for a in range(7):
        for b in range(7):
            shared = together[a, b]
            certain = shared * shared / (shared + related.FEW_USERS)
            plain = certain / counts[b] ** discount if shared >= max(1, least) else 0
            assert found[a, b] == pytest.approx(plain)


def test_the_most_similar_items_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tastes()
    whole = model_of(rows, SIMILAR).weights.toarray()
    monkeypatch.setattr(related, "NEIGHBORS", 5)
    kept = model_of(rows, SIMILAR).weights
    assert (np.diff(kept.indptr) <= 5).all()
    for row, best in zip(kept.toarray(), whole, strict=True):
        assert np.sort(row[row > 0]) == pytest.approx(np.sort(best)[-5:])


@pytest.mark.parametrize("recipe", [SIMS, SIMILAR])
@pytest.mark.parametrize(
    "rows",
    [
        [("u", "a", 1)],
        [(f"u{n}", "only", n) for n in range(30)],
        [(f"u{n}", f"i{m}", 7) for n in range(30) for m in range(5)],
        [(f"u{n}", f"i{n}", 7) for n in range(30)],
        [("huge", f"i{m}", m) for m in range(900)] + [("small", "i3", 1), ("small", "i4", 1)],
        [(user, item, n) for n, user in enumerate("ab") for item in ("", "é" * 256, "🎬", "007")],
    ],
    ids=["one row", "one item", "all alike", "nothing shared", "one huge user", "strange ids"],
)
def test_unusual_data_gives_full_lists(recipe: str, rows: list[Row]) -> None:
    data = interactions_of(rows)
    trained_model = train(recipe, data, {})
    assert isinstance(trained_model.model, RelatedItemsModel)
    assert all(np.isfinite(value) for value in trained_model.metrics.values())
    items = trained_model.model.item_ids.tolist()
    for item, row in zip(items, similar(trained_model.model, items, len(items) + 5), strict=True):
        assert sorted(row) == sorted(set(items) - {item})
    assert similar(trained_model.model, [], 5) == []


def test_the_metrics_are_of_the_item_after_the_last() -> None:
    data = interactions_of(tastes(users=200))
    ours, popular = train(SIMS, data, {}).metrics, train_popular(data).metrics
    assert set(ours) == set(popular)
    key = "normalized_discounted_cumulative_gain_at_10"
    assert ours[key] > popular[key] > 0


def test_hyperparameters_of_embeddings_raise() -> None:
    for name in ("item_id_hidden_dimension", "item_metadata_hidden_dimension"):
        with pytest.raises(HyperparameterError, match=f"no hyperparameter {name}; it has: none"):
            train(SIMILAR, interactions_of(tastes()), {name: "100"})


def test_same_bytes_for_any_number_of_cores_and_row_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tastes(users=150, items=120, items_per_user=30)
    files = []
    for run, cores in enumerate((1, 2)):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        monkeypatch.setattr(related, "BLOCK_COUNTS", 120 * 7)
        model_of(rows if run else rows[::-1]).save(tmp_path / str(run))
        files.append({p.name: p.read_bytes() for p in (tmp_path / str(run)).iterdir()})
    assert files[0] == files[1]


def test_a_saved_model_answers_the_same_and_damage_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(tastes())
    model.save(tmp_path)
    loaded_model = load_model(tmp_path)
    assert isinstance(loaded_model, RelatedItemsModel)
    items = [*model.item_ids, "new"]
    before = similar(model, items, 12)
    monkeypatch.setattr(serving, "EFFICIENT_CHUNK", 1)
    monkeypatch.setattr(serving, "CHUNK_SCORES", 3 * 10)
    assert similar(loaded_model, items, 12) == before
    for path in sorted(tmp_path.iterdir()):
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        with pytest.raises(ModelFileError, match=path.name):
            load_model(tmp_path)
        path.write_bytes(good)
