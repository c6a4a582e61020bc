"""What trained models recommend, also from unusual data and after saving."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import fit_components, serving, threads
from batchrec_dagster.local_personalize.learning.interactions import (
    Histories,
    ModelFileError,
    TrainingError,
)
from batchrec_dagster.local_personalize.learning.model_selection import Blend
from batchrec_dagster.local_personalize.learning.models import AnyModel, load_model
from batchrec_dagster.local_personalize.learning.serving import UserModel, exclude_entries
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import (
    Row,
    for_users,
    interactions_of,
    lists,
    popular_blends,
    scores,
    tastes,
    train_popular,
)

PERSONALIZATION = "aws-user-personalization"
RECIPES = [PERSONALIZATION, "aws-user-personalization-v2"]


def train_cached_model(
    rows: list[Row], recipe: str = PERSONALIZATION, **hyperparameters: str
) -> UserModel:
    return _train_model(tuple(rows), recipe, tuple(hyperparameters.items()))


@cache
def _train_model(
    rows: tuple[Row, ...], recipe: str, parameters: tuple[tuple[str, str], ...]
) -> UserModel:
    """Trained once: half of these tests look at the same model."""
    return for_users(train(recipe, interactions_of(rows), dict(parameters)).model)


# --- what is recommended ---


def test_users_get_items_of_similar_users() -> None:
    rows = tastes(users=100, items_per_user=8)
    data = interactions_of(rows)
    model = train_cached_model(rows)
    users = [f"u{user}" for user in range(100)]
    seen = Histories(data, model.item_ids)
    excluded = seen.of_users(seen.users(users)).recency_weights(0.0)
    chunks = model.recommend(users, data, 3, exclude=exclude_entries(excluded))
    items = np.concatenate([chunk.items for chunk in chunks])
    right = sum(
        int(model.item_ids[item][1:]) % 2 == user % 2
        for user, row in enumerate(items)
        for item in row
    )
    assert right > 0.8 * 300  # by popularity about half would be right


def test_metrics_have_personalizes_keys_and_beat_popularity() -> None:
    data = interactions_of(tastes(users=200))
    ours, popular = train(PERSONALIZATION, data, {}).metrics, train_popular(data).metrics
    assert set(ours) == {
        "coverage",
        "mean_reciprocal_rank_at_25",
        *(f"normalized_discounted_cumulative_gain_at_{k}" for k in (5, 10, 25)),
        *(f"precision_at_{k}" for k in (5, 10, 25)),
    }
    assert all(0 <= value <= 1 for value in ours.values())
    key = "normalized_discounted_cumulative_gain_at_10"
    assert ours[key] > popular[key]


@pytest.mark.parametrize("recipe", RECIPES)
def test_unknown_users_get_popular_items_with_their_shares(recipe: str) -> None:
    rows = [(f"u{n}", item, n) for item, count in zip("dacb", (4, 3, 3, 1), strict=True)
            for n in range(count)]  # fmt: skip
    model, data = train_cached_model(rows, recipe), interactions_of(rows)
    assert lists(model, ["nobody"], data, 4) == [["d", "a", "c", "b"]]
    assert scores(model, ["nobody"], data, 4)[0] == pytest.approx(np.array([4, 3, 3, 1]) / 11)


def test_scores_are_the_weighted_sum_of_the_components() -> None:
    data = interactions_of(tastes())
    fitter = fit_components.ComponentFitter(data, {}, 0, lambda _: None)
    names = ["sequence", "cooccurrence-symmetric", "factors", "popularity"]
    exponents = dict(zip(names, (0.9, 0.9, 0.3, 0.0), strict=True))  # two share theirs
    weights = dict(zip(names, (3.0, 5.0, 2.0, 0.01), strict=True))
    model = fitter.fit(names, {}).blend(Blend(exponents, weights, 0.0), 1.0)
    expected = sum(
        weights[name] * scorer.score(fitter.history, exponents[name]).astype(np.float64)
        for name, scorer in model.scorers.items()
    )
    assert model.score(fitter.history) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_users_not_trained_on_get_personal_lists() -> None:
    rows = tastes()
    model = train_cached_model(rows)
    later_interactions = interactions_of([*rows, ("new-even", "i0", 9), ("new-odd", "i1", 9)])
    popular, even, odd = lists(model, ["nobody", "new-even", "new-odd"], later_interactions, 5)
    assert popular != even != odd
    assert all(int(item[1:]) % 2 == 0 for item in even)
    assert all(int(item[1:]) % 2 == 1 for item in odd)


def test_newer_interactions_count_and_new_items_are_ignored() -> None:
    rows = tastes()
    model = train_cached_model(rows)
    before = lists(model, ["u0"], interactions_of(rows), 10)
    newer = [("u0", f"i{2 * n + 1}", 10**9 + n) for n in range(8)]
    assert lists(model, ["u0"], interactions_of([*rows, *newer]), 10) != before
    unknown = [("u0", "released-today", 10**9), ("stranger", "released-today", 10**9)]
    popular, stranger = lists(model, ["nobody", "stranger"], interactions_of([*rows, *unknown]), 10)
    assert lists(model, ["u0"], interactions_of([*rows, *unknown]), 10) == before
    assert stranger == popular


def test_recent_interactions_weigh_more_unless_turned_off() -> None:
    rows = tastes()
    turned_rows = [("turned", f"i{2 * n}", n) for n in range(6)] + [
        ("turned", f"i{2 * n + 1}", 100 + n) for n in range(6)
    ]
    back = [(user, item, -time) for user, item, time in turned_rows]
    for off in ({"recency_mask": "false"}, {}):
        model = train_cached_model(rows, **off)
        first, second = (
            lists(model, ["turned"], interactions_of([*rows, *own]), 10)
            for own in (turned_rows, back)
        )
        assert (first == second) == bool(off)


# --- masks, padding, scores ---


@pytest.mark.parametrize("recipe", RECIPES)
def test_scores_are_a_softmax_over_the_catalogue(recipe: str) -> None:
    rows = tastes()
    model, data = train_cached_model(rows, recipe), interactions_of(rows)
    whole = scores(model, ["u0", "u1", "nobody"], data, len(data.item_ids))
    assert whole.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (np.diff(whole, axis=1) <= 0).all()
    assert (whole > 0).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_exclude_removes_items_and_keeps_scores_and_order(recipe: str) -> None:
    rows = tastes()
    model, data = train_cached_model(rows, recipe), interactions_of(rows)
    n = len(model.item_ids)
    all_items = np.concatenate([c.items for c in model.recommend(["u0", "u1"], data, n)])
    all_scores = scores(model, ["u0", "u1"], data, n)
    forbidden = np.zeros((2, n), np.float32)
    forbidden[0, all_items[0, :3]] = 1
    forbidden[1, all_items[1, 0]] = 1
    for user in range(2):
        keep = [k for k, i in enumerate(all_items[user]) if not forbidden[user, i]][:10]
        [chunk] = model.recommend(
            ["u0", "u1"], data, 10, exclude=exclude_entries(csr_matrix(forbidden))
        )
        assert chunk.items[user].tolist() == all_items[user, keep].tolist()
        assert chunk.scores[user].tolist() == all_scores[user, keep].tolist()


@pytest.mark.parametrize("recipe", RECIPES)
def test_lists_longer_than_the_catalogue_are_padded(recipe: str) -> None:
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "a", 1)]
    [chunk] = train_cached_model(rows, recipe).recommend(["u", "nobody"], interactions_of(rows), 5)
    assert (np.sort(chunk.items[:, :2]) == [0, 1]).all()
    assert (chunk.items[:, 2:] == -1).all()
    assert (chunk.scores[:, 2:] == 0).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_user_who_has_seen_everything_gets_an_empty_list(recipe: str) -> None:
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "a", 1)]
    [chunk] = train_cached_model(rows, recipe).recommend(
        ["u"], interactions_of(rows), 2, exclude=exclude_entries(csr_matrix(np.ones((1, 2))))
    )
    assert chunk.items.tolist() == [[-1, -1]]
    assert chunk.scores.tolist() == [[0, 0]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_users_give_no_lists(recipe: str) -> None:
    rows = tastes()
    assert list(train_cached_model(rows, recipe).recommend([], interactions_of(rows), 5)) == []


def test_chunks_do_not_change_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tastes()
    model, data = train_cached_model(rows), interactions_of(rows)
    users = [*data.user_ids, "nobody", *data.user_ids]
    excluded = csr_matrix(np.random.default_rng(0).random((len(users), 40)) < 0.2)

    def recommend_in_chunks() -> tuple[list[list[int]], int]:
        chunks = list(model.recommend(users, data, 7, exclude=exclude_entries(excluded)))
        return [row for chunk in chunks for row in chunk.items.tolist()], len(chunks)

    monkeypatch.setattr(serving, "LEAST_CHUNK", 3)
    divided_lists, count = recommend_in_chunks()
    assert count > 4  # so that all cores have some
    monkeypatch.setattr(serving, "MIN_CHUNKS", 1)
    assert recommend_in_chunks() == (divided_lists, 1)
    monkeypatch.setattr(serving, "EFFICIENT_CHUNK", 1)
    monkeypatch.setattr(serving, "CHUNK_SCORES", 7 * 10)
    assert recommend_in_chunks()[0] == divided_lists


# --- edges ---


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "rows",
    [
        [("u", "a", 1)],
        [(f"u{n}", "only", n) for n in range(30)],
        [(f"u{n}", "only", m) for n in range(30) for m in range(3)],
        [(f"u{n}", f"i{m}", 7) for n in range(30) for m in range(5)],
        [(f"u{n}", f"i{n}", 7) for n in range(30)],
        [("huge", f"i{m}", m) for m in range(900)] + [("small", "i3", 1), ("small", "i4", 1)],
        [(f"u{n}", f"i{(n + m) % 9}", 0) for n in range(20) for m in range(3)],
        [("u", "a", -5), ("u", "b", 2**40), ("v", "a", 0), ("v", "b", 0)],
    ],
    ids=[
        "one row",
        "one item",
        "one item, again and again",
        "all users alike, at one second",
        "nobody shares anything",
        "one huge user",
        "ties everywhere",
        "times far apart",
    ],
)
def test_unusual_data_gives_full_lists_and_finite_scores(recipe: str, rows: list[Row]) -> None:
    data = interactions_of(rows)
    trained_model = train(recipe, data, {})
    assert all(np.isfinite(value) for value in trained_model.metrics.values())
    n = len(data.item_ids)
    for chunk in for_users(trained_model.model).recommend([*data.user_ids, "nobody"], data, n):
        assert (np.sort(chunk.items, axis=1) == np.arange(n)).all()
        assert np.isfinite(chunk.scores).all()
        assert chunk.scores.sum(axis=1) == pytest.approx(1, abs=1e-4)


def test_no_interactions_raise() -> None:
    with pytest.raises(TrainingError, match="no interactions"):
        train(PERSONALIZATION, interactions_of([]), {})


def test_without_interactions_everyone_gets_popular_items() -> None:
    rows = tastes()
    model = train_cached_model(rows)
    nobody = lists(model, ["nobody"], interactions_of(rows), 5)
    assert lists(model, ["u0"], interactions_of([]), 5) == nobody


def test_unusual_ids_are_kept(tmp_path: Path) -> None:
    ids = ["7", "07", "7.0", "1e3", " 7", "ñandú", "n\u0303andu\u0301", "映画", "🎬", "x" * 256,
           "é" * 256, 'a"b', "a,b", "a\nb", "null", "NaN", "a\x00"]  # fmt: skip
    rows = [(user, item, n) for n, user in enumerate(ids) for item in ids[: n + 1]]
    model = train_cached_model(rows)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert sorted(again.item_ids) == sorted(ids)
    assert all(type(item) is str for item in again.item_ids)
    # The user with only "7" gets another list than unknown "007": ids are never read as numbers.
    own, unknown, other = lists(again, ["7", "007", "nobody"], interactions_of(rows), 17)
    assert own != unknown == other


def test_repeats_count_once_in_a_history_and_every_time_in_popularity() -> None:
    rows = [("u", "a", n) for n in range(9)] + [("u", "b", 3), ("v", "b", 1), ("w", "b", 1)]
    data = interactions_of(rows)
    with popular_blends():
        model = train_cached_model(rows)
    assert lists(model, ["u"], data, 2) == [["a", "b"]]
    histories = Histories(data, model.item_ids)
    history = histories.of_users(histories.users(["nobody", "u"]))
    assert history.lengths.tolist() == [0, 2]
    assert [model.item_ids[item] for item in history.items] == ["a", "b"]  # newest first


def test_items_of_one_second_share_their_rank() -> None:
    data = interactions_of([("u", "a", 5), ("u", "b", 5), ("u", "c", 5), ("u", "d", 9)])
    histories = Histories(data, data.item_ids)
    assert histories.of_users(histories.users(["u"])).ranks.tolist() == [0, 2, 2, 2]


@pytest.mark.slow
def test_users_outside_the_percentiles_are_not_trained_on() -> None:
    quiet = [(f"q{n}", item, 0) for n in range(20) for item in ("a", "b")]
    loud = [("loud", f"i{n}", 0) for n in range(500)]
    queried_interactions = interactions_of([*quiet, *loud, ("x", "i0", 0)])
    with_loud = train_cached_model([*quiet, *loud])
    without = train_cached_model([*quiet, *loud], max_user_history_length_percentile="0.9")
    # Of what only the loud user had.
    assert (
        scores(with_loud, ["x"], queried_interactions, 3)[0, 2]
        > scores(without, ["x"], queried_interactions, 3)[0, 2]
    )
    # i0 was not trained on, so popular items come first.
    assert lists(without, ["x"], queried_interactions, 2) == [["a", "b"]]


# --- the same every time ---


def save_and_read(model: AnyModel, folder: Path) -> dict[str, bytes]:
    model.save(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_same_data_same_bytes_for_any_row_order_and_number_of_cores(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tastes(users=150, items=120, items_per_user=30)
    files, lists_of_runs, metrics = [], [], []
    for run, cores in enumerate((1, 2, 3)):
        monkeypatch.setattr(threads, "count_cores", lambda cores=cores: cores)
        data = interactions_of(rows if run else rows[::-1])
        trained_model = train(recipe, data, {}, seed=4)
        files.append(save_and_read(trained_model.model, tmp_path / str(run)))
        lists_of_runs.append(lists(trained_model.model, list(data.user_ids), data, 10))
        metrics.append(trained_model.metrics)
    assert files[0] == files[1] == files[2]
    assert lists_of_runs[0] == lists_of_runs[1] == lists_of_runs[2]
    assert metrics[0] == metrics[1] == metrics[2]


# --- to disk and back ---


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_saved_model_recommends_the_same(recipe: str, tmp_path: Path) -> None:
    rows = tastes()
    data = interactions_of(rows)
    model = train_cached_model(rows, recipe)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    users = [*data.user_ids, "nobody"]
    assert type(again) is type(model)
    assert lists(again, users, data, 10) == lists(model, users, data, 10)
    assert (scores(again, users, data, 10) == scores(model, users, data, 10)).all()


def test_nothing_is_pickled(tmp_path: Path) -> None:
    files = save_and_read(train_cached_model(tastes()), tmp_path)
    assert {name.rsplit(".", 1)[1] for name in files} == {"npy", "json"}
    for path in tmp_path.glob("*.npy"):
        assert np.load(path, allow_pickle=False).dtype != object


def test_a_missing_model_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nowhere is incomplete"):
        load_model(tmp_path / "nowhere")


def test_damage_names_the_file(tmp_path: Path) -> None:
    whole = save_and_read(train_cached_model(tastes()), tmp_path)
    for relative, good in whole.items():
        path = tmp_path / relative
        name = path.name
        path.unlink()
        with pytest.raises(ModelFileError, match=name):
            load_model(tmp_path)
        path.write_bytes(good[: len(good) // 2])
        with pytest.raises(ModelFileError, match=name):
            load_model(tmp_path)
        if name != "manifest.json":
            path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
            with pytest.raises(ModelFileError, match=f"{name} is damaged"):
                load_model(tmp_path)
        path.write_bytes(good)
    assert load_model(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2; this version reads 1"),
        ({"kind": "oracle"}, "unknown kind 'oracle'"),
        ({"files": {}}, "is incomplete"),
        ({"files": ["a"]}, "cannot be read"),
        ({"facts": {}}, "is incomplete"),
        ({"facts": 3}, "cannot be read"),
    ],
)
def test_a_foreign_manifest_raises(change: dict[str, object], message: str, tmp_path: Path) -> None:
    train_cached_model(tastes()).save(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path)
    for text in ("[]", "null", "3", "{}"):
        path.write_text(text)
        with pytest.raises(ModelFileError, match="cannot be read"):
            load_model(tmp_path)


def test_saving_over_a_model_replaces_it(tmp_path: Path) -> None:
    train_cached_model(tastes()).save(tmp_path)
    train_cached_model([("u", "a", 1), ("u", "b", 2)]).save(tmp_path)
    again = load_model(tmp_path)
    assert list(again.item_ids) == ["a", "b"]


@pytest.mark.parametrize("columns", [1, 1_000, 27_000, 100_000, 1 << 20, 50_000_000])
def test_a_chunk_has_rows_enough_for_blas_and_bounded_memory(columns: int) -> None:
    rows = serving.chunk_size(columns)
    assert rows >= (128 if columns <= 27_000 else 32 if columns <= 1 << 20 else 1)
    assert rows == 1 or rows * columns * 4 < (32 if columns <= 200_000 else 129) << 20
