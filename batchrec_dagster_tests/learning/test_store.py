"""Interactions round-trip through files; damaged files raise."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import store
from batchrec_dagster.local_personalize.learning.interactions import Interactions, ModelFileError
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.learning.support import Row, interactions_of, tastes

ids = st.sampled_from(["a", "b", "ü", "10", "9", "a\x00", "🎬", "long " * 50])
rows = st.lists(st.tuples(ids, ids, st.integers(-3, 3)), max_size=20)


def assert_same(found: Interactions, wanted: Interactions) -> None:
    for name in ("user_ids", "item_ids", "users", "items", "timestamps"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


@pytest.mark.slow
def test_loaded_arrays_are_memory_mapped(tmp_path: Path) -> None:
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


def test_the_headers_of_files_are_parsed_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_arrays(tmp_path, "numbers", {name: np.arange(3) for name in "abcd"}, {})
    two_inside, load = threading.Barrier(2), np.load

    def slow(*args: Any, **options: Any) -> Any:
        two_inside.wait(timeout=0.2)
        return load(*args, **options)

    monkeypatch.setattr(np, "load", slow)
    with pytest.raises(threading.BrokenBarrierError):  # after the first waited alone
        store.load_arrays(tmp_path)


def test_no_interactions_round_trip(tmp_path: Path) -> None:
    store.save(interactions_of([]), tmp_path)
    assert_same(store.load(tmp_path), interactions_of([]))


@pytest.mark.slow
@given(st.lists(rows, min_size=1, max_size=4))
@settings(deadline=None)
def test_concat_equals_all_rows_together(parts: list[list[Row]]) -> None:
    joined = store.concat([interactions_of(part) for part in parts])
    assert_same(joined, interactions_of([row for part in parts for row in part]))


def test_damage_names_the_file(tmp_path: Path) -> None:
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
def test_a_folder_of_something_else_raises(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    store.save(interactions_of([("u", "a", 1)]), tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelFileError, match=message):
        store.load(tmp_path)
