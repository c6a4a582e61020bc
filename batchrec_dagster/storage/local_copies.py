"""Copies of S3 objects and downloads on this machine, so that a run downloads each of them once.

A copy is named after its source and the source's version, such as an object's URI and ETag, so that
it never has the content of another version. It stays for later steps and runs until the source has
another version, or nobody has opened the copy for two days.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from batchrec_dagster.storage import durable
from batchrec_dagster.storage.objects import ObjectNotFoundError, ObjectStore

# A copy that nobody opens stays this long.
MAX_AGE_SECONDS = 2 * 86_400


@contextmanager
def open_object(store: ObjectStore, folder: Path, uri: str) -> Iterator[Path]:
    """Yield the path of a copy of the object's current version, as `open_copy` does.

    Raises UserError.
    """
    info = store.head(uri)
    if info is None:
        raise ObjectNotFoundError(f"cannot read {uri}: there is no such object")
    # A reader may need the name's ending.
    name = uri.rpartition("/")[2]
    with open_copy(folder, uri, info.etag, name, partial(store.chunks, uri, info.etag)) as path:
        yield path


@contextmanager
def open_copy(
    folder: Path, source: str, version: str, name: str, read: Callable[[], Iterable[bytes]]
) -> Iterator[Path]:
    """Yield the path of the copy of this version of the source, which is downloaded if missing.

    Until the block ends, no other process removes the copy.

    folder: the folder of the copies.
    name: the name of the copied file.
    read: downloads the source piece by piece.
    """
    path = folder / _digest(source) / _digest(version) / name
    # The copies are as private as the home of this user.
    durable.make_folders(folder, 0o700)
    with durable.exclusive_lock(folder):
        if not path.exists():
            _remove(folder, "*", older_than=time.time() - MAX_AGE_SECONDS)
            _remove(folder, _digest(source))
            durable.write(path, read())
        os.utime(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield path
    finally:
        os.close(descriptor)


def remove_copies(folder: Path, source: str | None = None) -> list[Path]:
    """Remove the copies of a source, or all copies if `source` is None.

    A copy may contain rows of a person who is erased. Return the copies that stay because a process
    has them open.

    folder: the folder of the copies.
    """
    if not folder.exists():
        return []
    with durable.exclusive_lock(folder):
        return _remove(folder, "*" if source is None else _digest(source))


def _remove(folder: Path, pattern: str, older_than: float = math.inf) -> list[Path]:
    """Remove copies that no process has open, and return the copies that stay.

    pattern: matches the names of the folders of the copied sources.
    older_than: a time in epoch seconds. Copies that were opened since then stay.
    """
    kept = []
    for of_source in folder.glob(pattern):
        for path in [of_source, *of_source.rglob("*")]:
            if path.is_file():
                if path.stat().st_mtime < older_than:
                    durable.remove_unlocked(path)
                if path.exists():
                    kept.append(path)
        durable.delete_empty_folders(of_source)
    return kept


def _digest(text: str) -> str:
    # A URI or an ETag may contain any character.
    return durable.compute_version([text.encode()])
