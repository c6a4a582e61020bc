"""Tests that saved models give the same lists, and that damaged models are not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batchrec_dagster.local_personalize.engine import blend, similar
from batchrec_dagster.local_personalize.engine.blend_model import BlendModel
from batchrec_dagster.local_personalize.engine.similar import SimilarItems
from batchrec_dagster.local_personalize.engine.store import ARRAYS, FACTS, ModelFileError
from batchrec_dagster_tests.local_personalize.engine.support import interactions_of, lists, tastes
from batchrec_dagster_tests.local_personalize.engine.test_content import halves

ROWS = [*tastes(), *((f"u{n}", f"i{n % 40}", 10**6) for n in range(60)), ("ü\n,", "i1", 1)]


@pytest.mark.parametrize("with_items", [False, True])
def test_a_saved_blend_gives_the_same_lists(with_items: bool, tmp_path: Path) -> None:
    data = interactions_of(ROWS)
    features = halves() if with_items else None
    model, _ = blend.train(data, features, {}, lambda _: None)
    model.save(tmp_path)
    loaded = BlendModel.load(tmp_path)
    assert loaded.repeats == model.repeats
    assert loaded.blend == model.blend
    users = [*data.user_ids, "stranger"]
    assert lists(loaded, users, data, 44) == lists(model, users, data, 44)


def test_saved_similar_items_are_the_same(tmp_path: Path) -> None:
    model, _ = similar.train_sims(interactions_of(ROWS), None, {}, lambda _: None)
    model.save(tmp_path)
    loaded = SimilarItems.load(tmp_path)
    assert loaded.item_ids.tolist() == model.item_ids.tolist()
    assert (loaded.weights != model.weights).nnz == 0


def test_ids_of_any_characters_are_kept(tmp_path: Path) -> None:
    ids = ["a\0", "a", "\u2028", 'quote"', "x" * 256, "🎬", "\ud7ff"]
    data = interactions_of((f"u{n}", item, n) for n, item in enumerate(ids))
    model, _ = similar.train_sims(data, None, {}, lambda _: None)
    model.save(tmp_path)
    assert SimilarItems.load(tmp_path).item_ids.tolist() == model.item_ids.tolist()


def test_a_lost_or_damaged_file_is_named(tmp_path: Path) -> None:
    model, _ = similar.train_sims(interactions_of(ROWS), None, {}, lambda _: None)
    model.save(tmp_path)
    arrays = (tmp_path / ARRAYS).read_bytes()
    (tmp_path / ARRAYS).write_bytes(arrays[:-9])
    with pytest.raises(ModelFileError, match=str(tmp_path)):
        SimilarItems.load(tmp_path)
    (tmp_path / ARRAYS).unlink()
    with pytest.raises(ModelFileError, match=ARRAYS):
        SimilarItems.load(tmp_path)
    (tmp_path / ARRAYS).write_bytes(arrays)
    (tmp_path / FACTS).unlink()
    with pytest.raises(ModelFileError, match=FACTS):
        SimilarItems.load(tmp_path)


def test_no_flipped_bit_changes_an_array_unnoticed(tmp_path: Path) -> None:
    model, _ = similar.train_sims(interactions_of(tastes(20)), None, {}, lambda _: None)
    model.save(tmp_path)
    whole = (tmp_path / ARRAYS).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 100, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / ARRAYS).write_bytes(damaged)
        try:
            loaded = SimilarItems.load(tmp_path)
        except ModelFileError:
            continue
        # The remaining bytes belong to the archive's directory, and nobody reads them.
        assert loaded.item_ids.tolist() == model.item_ids.tolist()
        assert (loaded.weights != model.weights).nnz == 0
