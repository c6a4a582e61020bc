"""Copies of S3 objects on this machine, so that the steps of a run download each object once.

A copy is named after the object's URI and its ETag, so that it never has the content of another
version. It stays for later steps and runs until the object has another version, or nobody has
opened the copy for two days.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec_dagster.storage import durable
from batchrec_dagster.storage.objects import ObjectNotFoundError, ObjectStore

# A copy that nobody opens stays this long.
MAX_AGE_SECONDS = 2 * 86_400


@contextmanager
def open_copy(store: ObjectStore, folder: Path, uri: str) -> Iterator[Path]:
    """Yield the path of the object's copy on this machine.

    The object is downloaded unless there is a copy of its current version. Until the block ends, no
    other process removes the copy. Raises UserError.

    folder: the folder of the copies.
    """
    info = store.head(uri)
    if info is None:
        raise ObjectNotFoundError(f"cannot read {uri}: there is no such object")
    # A reader may need the name's ending.
    name = uri.rpartition("/")[2]
    path = folder / _digest(uri) / _digest(info.etag) / name
    # The copies are as private as the home of this user.
    durable.make_folders(folder, 0o700)
    with durable.exclusive_lock(folder):
        if not path.exists():
            _remove(folder, "*", older_than=time.time() - MAX_AGE_SECONDS)
            _remove(folder, _digest(uri))
            durable.write(path, store.chunks(uri, info.etag))
        os.utime(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield path
    finally:
        os.close(descriptor)


def remove_copies(folder: Path, uri: str | None = None) -> None:
    """Remove the copies of an object, or all copies, such as copies with rows of a person.

    folder: the folder of the copies.
    """
    if folder.exists():
        with durable.exclusive_lock(folder):
            _remove(folder, "*" if uri is None else _digest(uri))


def _remove(folder: Path, pattern: str, older_than: float = math.inf) -> None:
    """Remove copies that no process has open.

    pattern: matches the names of the folders of the copied objects.
    older_than: a time in epoch seconds. Copies that were opened since then stay.
    """
    for of_object in folder.glob(pattern):
        for path in of_object.rglob("*"):
            if path.is_file() and path.stat().st_mtime < older_than:
                durable.remove_unlocked(path)
        durable.delete_empty_folders(of_object)


def _digest(text: str) -> str:
    # A URI or an ETag may contain any character.
    return durable.compute_version([text.encode()])
