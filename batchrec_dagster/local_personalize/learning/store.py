"""Models and interactions on disk: `.npy` files and a manifest with their checksums."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix

from .interactions import Ids, Int32, Interactions, ModelFileError, positions, sort_rows
from .threads import ordered_map

MANIFEST = "manifest.json"
FORMAT = 1

Arrays = Mapping[str, npt.NDArray[Any]]


def save_arrays(folder: Path, kind: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write `<name>.npy` for each array, then `manifest.json`; `facts` is any JSON object.

    The manifest is written last: a folder without one was not saved completely.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        np.save(path, array, allow_pickle=False)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    manifest = {"format": FORMAT, "kind": kind, "files": files, "facts": facts}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


# NumPy parses a file's header as Python, which fails in two threads at once: SystemError in Python
# 3.11 and 3.12 (github.com/python/cpython/issues/106905). Jobs of two lanes load at once, too.
_parsing = threading.Lock()


def load_arrays(
    folder: Path, *, mapped: bool = False
) -> tuple[str, dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote: kind, arrays, facts.

    `mapped` arrays are read-only memory maps. Raises ModelFileError when a file is missing,
    truncated or changed.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version, kind = manifest["format"], manifest["kind"]
        files, facts = dict(manifest["files"]), dict(manifest["facts"])
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is incomplete: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version}; this version reads {FORMAT}")
    checked = ordered_map(lambda name: _checked_array(folder / name, files[name], mapped), files)
    names = [name.removesuffix(".npy") for name in files]
    return kind, dict(zip(names, checked, strict=True)), facts


def _checked_array(path: Path, expected: Mapping[str, Any], mapped: bool) -> npt.NDArray[Any]:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ModelFileError(f"{path} is damaged: {size} bytes instead of {expected['bytes']}")
        if _digest(path) != expected["sha256"]:
            raise ModelFileError(f"{path} is damaged: its SHA-256 differs from the manifest's")
        with _parsing:
            array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    return np.asarray(array)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_ids(ids: Ids, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Strings as two arrays: `id_bytes`, all as UTF-8, and `id_ends`, where each ends."""
    encoded = [text.encode() for text in ids]
    whole = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {f"{prefix}id_bytes": whole, f"{prefix}id_ends": ends}


def unpack_ids(arrays: Arrays, prefix: str = "") -> Ids:
    """The strings that `pack_ids` packed."""
    whole, ends = arrays[f"{prefix}id_bytes"].tobytes(), arrays[f"{prefix}id_ends"]
    ids = np.empty(len(ends), dtype=object)
    start = 0
    for i, end in enumerate(ends.tolist()):
        ids[i] = whole[start:end].decode()
        start = end
    return ids


def pack_matrix(matrix: csr_matrix) -> dict[str, npt.NDArray[Any]]:
    return {name: getattr(matrix, name) for name in ("data", "indices", "indptr")}


def unpack_matrix(arrays: Arrays, columns: int) -> csr_matrix:
    shape = len(arrays["indptr"]) - 1, columns
    return csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)


KIND = "interactions"
NUMBERS = ("users", "items", "timestamps")


def save(interactions: Interactions, folder: Path) -> None:
    """Write the interactions into the folder: 16 bytes each, and the ids."""
    numbers = {name: getattr(interactions, name) for name in NUMBERS}
    users, items = (
        pack_ids(interactions.user_ids, "user_"),
        pack_ids(interactions.item_ids, "item_"),
    )
    save_arrays(folder, KIND, {**numbers, **users, **items}, {})


def load(folder: Path) -> Interactions:
    """The saved interactions, memory-mapped.

    Raises ModelFileError when a file is missing or damaged.
    """
    kind, arrays, _ = load_arrays(folder, mapped=True)
    if kind != KIND:
        raise ModelFileError(f"{folder} contains {kind!r}, expected {KIND!r}")
    try:
        ids = unpack_ids(arrays, "user_"), unpack_ids(arrays, "item_")
        users, items, timestamps = (arrays[name] for name in NUMBERS)
        return Interactions(*ids, users, items, timestamps)
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{folder} is incomplete: {error}") from error


def concat(several: Sequence[Interactions]) -> Interactions:
    """The rows of several interactions, over the union of their ids."""
    if len(several) == 1:
        return several[0]
    user_ids, users = _union([one.user_ids for one in several], [one.users for one in several])
    item_ids, items = _union([one.item_ids for one in several], [one.items for one in several])
    timestamps = np.concatenate([one.timestamps for one in several])
    coded = pl.DataFrame({"users": users, "timestamps": timestamps, "items": items})
    return Interactions(user_ids, item_ids, *sort_rows(coded, len(user_ids)))


def _union(ids: Sequence[Ids], numbers: Sequence[Int32]) -> tuple[Ids, Int32]:
    """The distinct ids of all, sorted by code point, and all numbers as indices into them."""
    union = np.array(sorted(set().union(*ids)), dtype=object)
    return union, np.concatenate(
        [positions(union, own)[at] for own, at in zip(ids, numbers, strict=True)]
    )
