"""Models and interactions on disk: `.npy` files and a manifest with their checksums.

Native code reads these arrays without checking indices, so each is checked in full when it is
loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numpy.lib.format import MAGIC_PREFIX
from scipy.sparse import csr_matrix

from .interactions import (
    ROWS_AT_ONCE,
    Ids,
    Int32,
    Interactions,
    ModelFileError,
    find_positions,
    sort_rows,
)
from .threads import ordered_map

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
_ARRAY_FILE = re.compile(r"[\w-][\w.-]*\.npy", re.ASCII)  # in the folder itself
_DIGEST = re.compile(r"[0-9a-f]{64}")

Arrays = Mapping[str, npt.NDArray[Any]]

# What loading may raise if a value in a manifest has another type than expected.
LOAD_ERRORS = ValueError, TypeError, AttributeError, OverflowError


def save_arrays(folder: Path, kind: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write `<name>.npy` for each array, then `manifest.json`.

    A folder without a manifest was not saved completely.

    kind: says what is saved, such as a kind of model.
    facts: any JSON object, for the manifest.
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


# NumPy parses a file's header as Python. In two threads at once, that fails with a SystemError in
# Python 3.11 and 3.12 (github.com/python/cpython/issues/106905). Threads of this module and of two
# jobs would do it at once.
_header_lock = threading.Lock()


def load_arrays(
    folder: Path, *, mapped: bool = False
) -> tuple[str, dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The kind, the arrays and the facts that `save_arrays` wrote.

    Raises ModelFileError when a file is missing, truncated or changed, or is not a file of this
    folder.

    mapped: whether the arrays are to be read-only memory maps.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ModelFileError(f"{path} is damaged: it has more than {MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(path.read_text())
        version, kind = manifest["format"], manifest["kind"]
        files, facts = dict(manifest["files"]), dict(manifest["facts"])
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is incomplete: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version}; this version reads {FORMAT}")
    for name, expected in files.items():
        if not _ARRAY_FILE.fullmatch(name) or not _is_file_entry(expected):
            raise ModelFileError(f"{path} is damaged: its entry of the file {name!r} is not valid")
    arrays = ordered_map(
        lambda name: _load_checked_array(folder / name, files[name], mapped), files
    )
    names = [name.removesuffix(".npy") for name in files]
    return kind, dict(zip(names, arrays, strict=True)), facts


def _is_file_entry(expected: Any) -> bool:
    """Whether an entry of a manifest has the size and the checksum of a file."""
    return (
        isinstance(expected, dict)
        and type(expected.get("bytes")) is int
        and isinstance(expected.get("sha256"), str)
        and _DIGEST.fullmatch(expected["sha256"]) is not None
    )


def _load_checked_array(path: Path, expected: Mapping[str, Any], mapped: bool) -> npt.NDArray[Any]:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ModelFileError(f"{path} is damaged: {size} bytes instead of {expected['bytes']}")
        if _digest(path) != expected["sha256"]:
            raise ModelFileError(f"{path} is damaged: its SHA-256 differs from the manifest's")
        with path.open("rb") as file:
            if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:  # np.load also opens zip files
                raise ModelFileError(f"{path} is damaged: it is not an array of NumPy")
        with _header_lock:
            # A map is never larger than the file, whatever its header says.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.asarray(array) if mapped else np.array(array)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing") from None
    except _HEADER_ERRORS as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_array(
    arrays: Arrays, name: str, types: Sequence[npt.DTypeLike], shape: Sequence[int | None]
) -> npt.NDArray[Any]:
    """The array of this name.

    Raises KeyError if it is missing, and ValueError that names its file if it has another type or
    shape, or floating-point numbers that are not finite.

    types: the types that it may have.
    shape: its shape, with None for any length.
    """
    array = arrays[name]
    dtypes = [np.dtype(dtype) for dtype in types]
    if array.dtype not in dtypes:
        names = " or ".join(dtype.name for dtype in dtypes)
        raise ValueError(f"{name}.npy has the type {array.dtype}, expected {names}")
    lengths = zip(array.shape, shape, strict=False)
    has_other_length = any(expected not in (None, length) for length, expected in lengths)
    if array.ndim != len(shape) or has_other_length:
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name}.npy has the shape {array.shape}, expected ({expected})")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}.npy has numbers that are not finite")
    return array


def require_indices(numbers: npt.NDArray[Any], count: int, name: str) -> None:
    """Raise ValueError that names the file unless all numbers are indices of `count` values."""
    if not len(numbers):
        return
    least, largest = int(numbers.min()), int(numbers.max())
    if least < 0 or largest >= count:
        wrong = least if least < 0 else largest
        raise ValueError(f"{name}.npy has the index {wrong}, but there are {count} to choose from")


def _require_ends(ends: npt.NDArray[Any], count: int, name: str) -> None:
    """Raise ValueError that names the file unless the ends never fall, and the last is `count`."""
    falls = bool((ends[1:] < ends[:-1]).any())
    is_negative = len(ends) and ends[0] < 0
    last = int(ends[-1]) if len(ends) else 0
    if falls or is_negative or last != count:
        raise ValueError(f"{name}.npy does not rise from 0 to {count}")


def pack_ids(ids: Ids, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Strings as two arrays: `id_bytes`, all as UTF-8, and `id_ends`, where each ends.

    prefix: stands before the names of the arrays.
    """
    encoded = [text.encode() for text in ids]
    all_bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {f"{prefix}id_bytes": all_bytes, f"{prefix}id_ends": ends}


def unpack_ids(arrays: Arrays, prefix: str = "") -> Ids:
    """The strings that `pack_ids` packed. Raises KeyError, or ValueError that names the file."""
    byte_array = require_array(arrays, f"{prefix}id_bytes", [np.uint8], [None])
    ends = require_array(arrays, f"{prefix}id_ends", [np.int64], [None])
    _require_ends(ends, len(byte_array), f"{prefix}id_ends")
    all_bytes = byte_array.tobytes()
    ids = np.empty(len(ends), dtype=object)
    start = 0
    for i, end in enumerate(ends.tolist()):
        ids[i] = all_bytes[start:end].decode()
        start = end
    return ids


def unpack_distinct_ids(arrays: Arrays) -> Ids:
    """The strings that `pack_ids` packed, which must be distinct.

    Raises KeyError, or ValueError that names the file.
    """
    ids = unpack_ids(arrays)
    if len(set(ids)) != len(ids):
        raise ValueError("id_bytes.npy has an id more than once")
    return ids


def pack_matrix(matrix: csr_matrix) -> dict[str, npt.NDArray[Any]]:
    """A matrix as three arrays."""
    return {name: getattr(matrix, name) for name in ("data", "indices", "indptr")}


def unpack_matrix(arrays: Arrays, columns: int | None = None) -> csr_matrix:
    """The matrix that `pack_matrix` packed.

    Raises KeyError, or ValueError that names the file. SciPy itself checks much less: an index out
    of range makes it read and write memory that is not its own.

    columns: the number of columns; if None, the matrix is square.
    """
    data = require_array(arrays, "data", [np.float32], [None])
    indices = require_array(arrays, "indices", _INDEX_TYPES, [len(data)])
    indptr = require_array(arrays, "indptr", _INDEX_TYPES, [None])
    rows = len(indptr) - 1
    columns = rows if columns is None else columns
    if rows < 0 or indptr[0] != 0:
        raise ValueError("indptr.npy does not start at 0")
    _require_ends(indptr, len(data), "indptr")
    require_indices(indices, columns, "indices")
    return csr_matrix((data, indices, indptr), shape=(rows, columns))


_INDEX_TYPES = np.int32, np.int64
_HEADER_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)

KIND = "interactions"
NUMBERS = ("users", "items", "timestamps")


def save(interactions: Interactions, folder: Path) -> None:
    """Write the interactions into the folder: 16 bytes each, and the ids."""
    numbers = {name: getattr(interactions, name) for name in NUMBERS}
    user_ids = pack_ids(interactions.user_ids, "user_")
    item_ids = pack_ids(interactions.item_ids, "item_")
    save_arrays(folder, KIND, {**numbers, **user_ids, **item_ids}, {})


def load(folder: Path) -> Interactions:
    """The saved interactions, memory-mapped.

    Raises ModelFileError when a file is missing or damaged.
    """
    kind, arrays, _ = load_arrays(folder, mapped=True)
    if kind != KIND:
        raise ModelFileError(f"{folder} contains {kind!r}, expected {KIND!r}")
    try:
        user_ids, item_ids = unpack_ids(arrays, "user_"), unpack_ids(arrays, "item_")
        for ids, prefix in ((user_ids, "user_"), (item_ids, "item_")):
            if not (ids[1:] > ids[:-1]).all():
                raise ValueError(f"{prefix}id_bytes.npy has ids that are not sorted, or twice")
        users = require_array(arrays, "users", [np.int32], [None])
        items = require_array(arrays, "items", [np.int32], [len(users)])
        timestamps = require_array(arrays, "timestamps", [np.int64], [len(users)])
        require_indices(users, len(user_ids), "users")
        require_indices(items, len(item_ids), "items")
        if not _is_sorted(users):
            raise ValueError("users.npy is not sorted")
        return Interactions(user_ids, item_ids, users, items, timestamps)
    except KeyError as error:
        raise ModelFileError(f"{folder} is incomplete: {error}") from error
    except ValueError as error:
        raise ModelFileError(f"{folder} is damaged: {error}") from error


def _is_sorted(numbers: Int32) -> bool:
    """Whether no number is less than the one before.

    They are compared in blocks, since there may be very many.
    """
    blocks = (
        numbers[start : start + ROWS_AT_ONCE + 1] for start in range(0, len(numbers), ROWS_AT_ONCE)
    )
    return all(bool((block[1:] >= block[:-1]).all()) for block in blocks)


def concat(parts: Sequence[Interactions]) -> Interactions:
    """The rows of several interactions, over the union of their ids."""
    if len(parts) == 1:
        return parts[0]
    user_ids, users = _unite_ids([part.user_ids for part in parts], [part.users for part in parts])
    item_ids, items = _unite_ids([part.item_ids for part in parts], [part.items for part in parts])
    timestamps = np.concatenate([part.timestamps for part in parts])
    coded = pl.DataFrame({"users": users, "timestamps": timestamps, "items": items})
    return Interactions(user_ids, item_ids, *sort_rows(coded, len(user_ids)))


def _unite_ids(ids: Sequence[Ids], numbers: Sequence[Int32]) -> tuple[Ids, Int32]:
    """The distinct ids of all parts, sorted by code point, and all numbers as indices into them.

    ids: the ids of each part.
    numbers: for each part, indices into its ids.
    """
    union = np.array(sorted(set().union(*ids)), dtype=object)
    new_numbers = [
        find_positions(union, part_ids)[part_numbers]
        for part_ids, part_numbers in zip(ids, numbers, strict=True)
    ]
    return union, np.concatenate(new_numbers)


def require_number(value: Any, name: str) -> float:
    """The value if it is a finite number. Raises ValueError.

    name: what the manifest calls it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} has {value!r} in the manifest, expected a number")
    return value
