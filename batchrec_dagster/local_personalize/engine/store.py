"""Models saved as a NumPy file and a JSON file. NumPy checks its file's checksums on reading."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .data import object_ids, string_series

ARRAYS, FACTS = "arrays.npz", "facts.json"
_PARTS = ("data", "indices", "indptr", "shape")

Values = Mapping[str, Any]  # Arrays, numbers, sparse matrices and ids, by name.


class ModelFileError(Exception):
    """An error for a saved model that is missing or damaged. The message names the folder."""


def save(folder: Path, values: Values, facts: Mapping[str, Any]) -> None:
    """Write a model into a folder, creating the folder if necessary.

    values: arrays, numbers, sparse matrices and ids, by name. They are written as a NumPy file.
    facts: written as JSON.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in values.items():
        if isinstance(value, csr_matrix):
            arrays |= {f"{name}.{part}": np.asarray(getattr(value, part)) for part in _PARTS}
        elif isinstance(value, float):
            arrays[name] = np.array(value)
        elif value.dtype == object:
            text = json.dumps(value.tolist(), ensure_ascii=False)
            arrays[f"{name}.ids"] = np.frombuffer(text.encode(), np.uint8)
        else:
            arrays[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / ARRAYS, allow_pickle=False, **arrays)
    (folder / FACTS).write_text(json.dumps(facts))


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values and the facts that `save` wrote.

    Raises ModelFileError if a file is missing or damaged.
    """
    values: dict[str, Any] = {}
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            for name in arrays.files:
                stem, _, part = name.rpartition(".")
                if part == "ids":
                    values[stem] = object_ids(string_series(json.loads(arrays[name].tobytes())))
                elif part == "shape":
                    data, indices, indptr, shape = (arrays[f"{stem}.{part}"] for part in _PARTS)
                    values[stem] = csr_matrix((data, indices, indptr), shape=tuple(shape))
                elif part not in _PARTS:
                    values[name] = arrays[name]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{folder} is damaged: {error}") from error
    return values, facts
