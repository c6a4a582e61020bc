"""Interactions on disk: what is read back is what was saved, mapped, whole or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import store
from batchrec_dagster.local_personalize.learning.interactions import Interactions, ModelFileError
from batchrec_dagster.local_personalize.learning.training import train
from batchrec_dagster_tests.learning.support import Row, interactions_of, tastes

ids = st.sampled_from(["a", "b", "ü", "10", "9", "a\x00", "🎬", "long " * 50])
rows = st.lists(st.tuples(ids, ids, st.integers(-3, 3)), max_size=20)


def assert_same(found: Interactions, wanted: Interactions) -> None:
    for name in ("user_ids", "item_ids", "users", "items", "timestamps"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


@pytest.mark.slow
def test_the_numbers_stay_in_their_files(tmp_path: Path) -> None:
    data = interactions_of(tastes())
    store.save(data, tmp_path)
    found = store.load(tmp_path)
    assert_same(found, data)
    for name in store.NUMBERS:
        numbers = getattr(found, name)
        assert isinstance(numbers.base, np.memmap)
        assert not numbers.flags.writeable
    assert train("aws-user-personalization", found, {}).metrics == (
        train("aws-user-personalization", data, {}).metrics
    )


def test_nothing_is_nothing_again(tmp_path: Path) -> None:
    store.save(interactions_of([]), tmp_path)
    assert_same(store.load(tmp_path), interactions_of([]))


@pytest.mark.slow
@given(st.lists(rows, min_size=1, max_size=4))
@settings(deadline=None)
def test_parts_joined_are_what_all_rows_together_are(parts: list[list[Row]]) -> None:
    joined = store.concat([interactions_of(part) for part in parts])
    assert_same(joined, interactions_of([row for part in parts for row in part]))


def test_any_damage_is_named(tmp_path: Path) -> None:
    store.save(interactions_of(tastes()), tmp_path)
    for path in sorted(tmp_path.iterdir()):
        good = path.read_bytes()
        path.unlink()
        with pytest.raises(ModelFileError, match=path.name):
            store.load(tmp_path)
        path.write_bytes(good[: len(good) // 2])
        with pytest.raises(ModelFileError, match=path.name):
            store.load(tmp_path)
        if path.suffix == ".npy":
            path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
            with pytest.raises(ModelFileError, match=f"{path.name} is damaged"):
                store.load(tmp_path)
        path.write_bytes(good)
    assert len(store.load(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "popularity"}, "contains 'popularity', expected"), ({"files": {}}, "is incomplete")],
)
def test_what_is_not_a_store_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    store.save(interactions_of([("u", "a", 1)]), tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelFileError, match=message):
        store.load(tmp_path)
