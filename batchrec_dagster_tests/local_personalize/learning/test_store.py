"""Interactions round-trip through files; damaged files raise."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import components, store
from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.content import ContentScorer
from batchrec_dagster.local_personalize.learning.interactions import Interactions, ModelFileError
from batchrec_dagster.local_personalize.learning.models import load_model
from batchrec_dagster.local_personalize.learning.new_items import NewItems
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.repeated_items import Repeats
from batchrec_dagster.local_personalize.learning.segmentation import SegmentationModel
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.local_personalize.learning.support import Row, interactions_of, tastes

ids = st.sampled_from(["a", "b", "ü", "10", "9", "a\x00", "🎬", "long " * 50])
rows = st.lists(st.tuples(ids, ids, st.integers(-3, 3)), max_size=20)


def assert_same(actual: Interactions, expected: Interactions) -> None:
    for name in ("user_ids", "item_ids", "users", "items", "timestamps"):
        actual_array, expected_array = getattr(actual, name), getattr(expected, name)
        assert actual_array.dtype == expected_array.dtype
        assert actual_array.tolist() == expected_array.tolist()


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
    joined_interactions = store.concat([interactions_of(part) for part in parts])
    assert_same(joined_interactions, interactions_of([row for part in parts for row in part]))


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


# --- files that nobody's training wrote, with checksums that agree ---

ITEMS, NEW, FEATURES = 5, 2, 3
Change = Callable[[np.ndarray[Any, Any]], Any]


def _square(rows: int, columns: int) -> csr_matrix:
    return csr_matrix(np.arange(1, rows * columns + 1, dtype=np.float32).reshape(rows, columns))


def _content(rows: int) -> ContentScorer:
    return ContentScorer(_square(rows, FEATURES), np.ones((FEATURES, FEATURES), np.float32))


def _names(count: int) -> Any:
    return np.array([f"i{number}" for number in range(count)], dtype=object)


def _blend() -> BlendModel:
    """A model with one component of every kind."""
    scorers: dict[str, components.Scorer] = {
        "cooccurrence": components.ItemItemScorer(_square(ITEMS, ITEMS)),
        "empty": components.ItemItemScorer(csr_matrix((ITEMS, ITEMS), dtype=np.float32)),
        "factors": components.FactorScorer(np.ones((ITEMS, 2), np.float32), 1.0, 3.0),
        "popularity": components.PopularityScorer(np.ones(ITEMS, np.float32)),
        "content": _content(ITEMS),
    }
    return BlendModel(
        _names(ITEMS + NEW),
        np.ones(ITEMS, np.float32),
        scorers,
        dict.fromkeys(scorers, 0.5),
        dict.fromkeys(scorers, 1.0),
        repeats=Repeats(0.5, 1.0),
        repeat_rates=np.ones(ITEMS, np.float32),
        new_items=NewItems(_content(ITEMS + NEW), np.array([1.0, np.nan])),
    )


def _write(path: Path, data: bytes) -> None:
    """Change a file of a saved model, and its line of the manifest."""
    path.write_bytes(data)
    manifest = path.parent / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][path.name] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    manifest.write_text(json.dumps(content))


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _zip(array: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", _npy(array))
    return file.getvalue()


def _huge(array: Any) -> bytes:
    """A header of many more numbers than there are."""
    shape = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, shape)
    return file.getvalue() + bytes(4)


FOREIGN_FILES: dict[str, Callable[[Any], bytes]] = {
    "another type": lambda array: _npy(array.astype(np.complex64)),
    "the other byte order": lambda array: _npy(array.astype(np.dtype("f8").newbyteorder())),
    "more dimensions": lambda array: _npy(array[None]),
    "longer": lambda array: _npy(np.concatenate([np.atleast_1d(array)] * 2)),
    "shorter": lambda array: _npy(np.atleast_1d(array)[1:]),
    "objects": lambda array: _npy(array.astype(object)),
    "a zip file": _zip,
    "a huge header": _huge,
    "a deep header": lambda array: (
        np.lib.format.magic(1, 0) + (9000).to_bytes(2, "little") + b"(" * 9000
    ),
    "nothing": lambda array: b"",
}


@pytest.mark.attack
@pytest.mark.parametrize("change", FOREIGN_FILES)
def test_an_array_of_another_form_is_refused_by_name(change: str, tmp_path: Path) -> None:
    _blend().save(tmp_path)
    store.save(interactions_of(tastes()), tmp_path / "interactions")
    assert isinstance(load_model(tmp_path), BlendModel)
    paths = sorted(tmp_path.rglob("*.npy"))
    assert len(paths) > 25
    for path in paths:
        good = path.read_bytes()
        if (array := np.load(path)).size:
            _write(path, FOREIGN_FILES[change](array))
            load = load_model if path.parent == tmp_path else store.load
            # Of arrays that belong together, another one may be named.
            with pytest.raises(ModelFileError, match=r"\.npy "):
                load(path.parent)
            _write(path, good)
    assert isinstance(load_model(tmp_path), BlendModel)


def _with(values: dict[int, Any]) -> Change:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        out = array.copy()
        for place, value in values.items():
            out[place] = value
        return out

    return change


MOST = 2**31 - 1


@pytest.mark.attack
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "cooccurrence.indices",
            _with({3: MOST}),
            "cooccurrence.indices.npy has the index 2147483647, but there",
        ),
        (
            "cooccurrence.indices",
            _with({3: ITEMS}),
            "cooccurrence.indices.npy has the index 5, but there are 5",
        ),
        ("cooccurrence.indices", _with({3: -1}), "cooccurrence.indices.npy has the index -1"),
        (
            "cooccurrence.indptr",
            _with({2: MOST}),
            "cooccurrence.indptr.npy does not rise from 0 to 25",
        ),
        ("cooccurrence.indptr", _with({2: 0}), "cooccurrence.indptr.npy does not rise"),
        ("cooccurrence.indptr", _with({-1: MOST}), "cooccurrence.indptr.npy does not rise"),
        ("cooccurrence.indptr", _with({0: 1}), "cooccurrence.indptr.npy does not start at 0"),
        # SciPy's own full check takes these: the matrix has no entries.
        ("empty.indptr", _with({2: MOST}), "empty.indptr.npy does not rise from 0 to 0"),
        ("empty.indptr", _with({2: -MOST}), "empty.indptr.npy does not rise from 0 to 0"),
        (
            "cooccurrence.data",
            _with({0: np.nan}),
            "cooccurrence.data.npy has numbers that are not finite",
        ),
        ("content.indices", _with({0: FEATURES}), "content.indices.npy has the index 3"),
        ("content.weights", lambda a: a[:2, :2], "content.indices.npy has the index 2"),
        ("new-items.indices", _with({0: MOST}), "new-items.indices.npy has the index"),
        ("factors.item_factors", lambda a: a[:3], "factors.*are of 3 items, expected 5"),
        ("factors.item_factors", lambda a: a[:, :0], "has 0 factors, expected 1 to 256"),
        ("factors.item_factors", lambda a: np.tile(a, 200), "has 400 factors, expected 1 to 256"),
        ("id_ends", _with({0: MOST}), "id_ends.npy does not rise from 0 to 14"),
        ("id_ends", _with({0: -(2**63), 1: 2**63 - 1}), "id_ends.npy does not rise"),
        ("id_bytes", lambda a: np.full_like(a, 255), "can't decode"),
        ("id_bytes", lambda a: np.full_like(a, 65), "id_bytes.npy has an id more than once"),
    ],
)
def test_numbers_that_lead_out_of_an_array_are_refused(
    name: str, change: Change, message: str, tmp_path: Path
) -> None:
    _blend().save(tmp_path)
    path = tmp_path / f"{name}.npy"
    _write(path, _npy(change(np.load(path))))
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("users", _with({-1: MOST}), "users.npy has the index 2147483647"),
        ("users", _with({0: -1}), "users.npy has the index -1"),
        ("users", lambda a: a[::-1].copy(), "users.npy is not sorted"),
        ("items", _with({0: MOST}), "items.npy has the index 2147483647"),
        ("items", _with({0: -1}), "items.npy has the index -1"),
        ("user_id_ends", _with({0: MOST}), "user_id_ends.npy does not rise"),
        ("item_id_bytes", lambda a: a[::-1].copy(), "item_id_bytes.npy has ids that are not"),
    ],
)
def test_interactions_that_lead_out_of_their_ids_are_refused(
    name: str, change: Change, message: str, tmp_path: Path
) -> None:
    store.save(interactions_of(tastes()), tmp_path)
    path = tmp_path / f"{name}.npy"
    _write(path, _npy(change(np.load(path))))
    with pytest.raises(ModelFileError, match=message):
        store.load(tmp_path)


@pytest.mark.attack
def test_the_other_models_are_checked_too(tmp_path: Path) -> None:
    related_model = RelatedItemsModel(_names(ITEMS), _square(ITEMS, ITEMS))
    segments = SegmentationModel(_blend())
    for model, file in ((related_model, "indices"), (segments, "cooccurrence.indices")):
        folder = tmp_path / type(model).__name__
        model.save(folder)
        path = folder / f"{file}.npy"
        wild = np.full_like(np.load(path), MOST)
        _write(path, _npy(wild))
        with pytest.raises(ModelFileError, match=f"{file}.npy has"):
            load_model(folder)
    small = RelatedItemsModel(_names(ITEMS + 1), _square(ITEMS, ITEMS))
    small.save(tmp_path / "small")
    with pytest.raises(ModelFileError, match="is of 5 items, but there are 6"):
        load_model(tmp_path / "small")


@pytest.mark.attack
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("components", "cooccurrence", "weight"), "1", "cooccurrence has '1' in the manifest"),
        (("components", "cooccurrence", "recency_exponent"), None, "cooccurrence has None"),
        (("components", "cooccurrence", "weight"), float("nan"), "cooccurrence has nan"),
        (("components", "cooccurrence"), 3, "is damaged"),
        (("components", "cooccurrence", "kind"), [], "is damaged"),
        (("components",), 3, "is damaged"),
        (("repeats", "share"), 1.0, "the share of repeats is 1.0"),
        (("repeats",), [], "is damaged"),
    ],
)
def test_facts_of_the_wrong_type_are_refused(
    path: tuple[str, ...], value: Any, message: str, tmp_path: Path
) -> None:
    _blend().save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    place = manifest["facts"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("../outside.npy", None),
        ("/dev/zero", {"bytes": 0, "sha256": "0" * 64}),
        ("cooccurrence.data.npy", 3),
        ("cooccurrence.data.npy", {"bytes": "1", "sha256": "0" * 64}),
        ("cooccurrence.data.npy", {"bytes": 1, "sha256": None}),
    ],
)
def test_a_manifest_names_files_of_its_own_folder(name: str, entry: Any, tmp_path: Path) -> None:
    _blend().save(tmp_path / "model")
    outside = _npy(np.ones(3, np.float32))
    (tmp_path / "outside.npy").write_bytes(outside)
    known_file = {"bytes": len(outside), "sha256": hashlib.sha256(outside).hexdigest()}
    path = tmp_path / "model" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = known_file if entry is None else entry
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match=r"its entry of the file .* is not valid"):
        load_model(tmp_path / "model")


@pytest.mark.attack
@pytest.mark.parametrize("text", ["[" * 100_000, " " * (store.MAX_MANIFEST_BYTES + 1)])
def test_a_manifest_that_is_deep_or_large_is_refused(text: str, tmp_path: Path) -> None:
    _blend().save(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"manifest\.json (is damaged|cannot be read)"):
        load_model(tmp_path)
