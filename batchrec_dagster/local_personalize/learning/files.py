"""Arrays in files: plain, nothing pickled, and a manifest that shows damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.errors import ModelFileError

MANIFEST = "manifest.json"
FORMAT = 1
READ = 1 << 20

Arrays = Mapping[str, npt.NDArray[Any]]


def save_arrays(folder: Path, kind: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write `<name>.npy` for each array, then `manifest.json`; `facts` is any JSON.

    The manifest comes last: a folder without one is a save that did not finish.
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


def load_arrays(
    folder: Path, *, mapped: bool = False
) -> tuple[str, dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote: kind, arrays, facts.

    `mapped` arrays stay in their files, read-only, and take memory only where they are looked at.
    Raises ModelFileError when a file is missing, cut short or not the one that was saved.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version, kind = manifest["format"], manifest["kind"]
        files, facts = dict(manifest["files"]), dict(manifest["facts"])
    except FileNotFoundError:
        raise ModelFileError(f"there is nothing whole in {folder}: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if version != FORMAT:
        raise ModelFileError(f"{path} has format {version}; this version reads {FORMAT}")
    arrays = {}
    for name, expected in files.items():
        arrays[name.removesuffix(".npy")] = _checked_array(folder / name, expected, mapped)
    return kind, arrays, facts


def _checked_array(path: Path, expected: Mapping[str, Any], mapped: bool) -> npt.NDArray[Any]:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ModelFileError(f"{path} has {size} bytes, {expected['bytes']} were saved")
        if _digest(path) != expected["sha256"]:
            raise ModelFileError(f"{path} is damaged: its SHA-256 is not the one that was saved")
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    return np.asarray(array)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ):
            digest.update(chunk)
    return digest.hexdigest()


def pack_ids(ids: npt.NDArray[np.object_]) -> dict[str, npt.NDArray[Any]]:
    """Strings as two arrays: all their UTF-8 bytes, and where each ends."""
    encoded = [text.encode() for text in ids]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return {"id_bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8), "id_ends": ends}


def unpack_ids(arrays: Arrays) -> npt.NDArray[np.object_]:
    """The strings that `pack_ids` packed."""
    whole = arrays["id_bytes"].tobytes()
    ids = np.empty(len(arrays["id_ends"]), dtype=object)
    start = 0
    for i, end in enumerate(arrays["id_ends"].tolist()):
        ids[i] = whole[start:end].decode()
        start = end
    return ids
