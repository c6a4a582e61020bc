"""Temporary folders that do not outlive their process for long, even if it is killed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from batchrec_dagster.storage.durable import lock_new

_PREFIX = "batchrec-temporary-"
# Nothing that a person names is removed.
_OURS = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new, empty folder of this user alone; it is removed when the block ends.

    This process locks it, so that the next process that wants one knows what a killed one left.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder, opened = _new()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(opened)


def _new() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # another process has taken it for abandoned
            opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            if lock_new(opened, folder):
                return folder, opened


@cache  # once in a process
def _remove_abandoned(where: Path) -> None:
    for folder in where.glob(f"{_PREFIX}*"):
        if _OURS.fullmatch(folder.name):
            with suppress(OSError):  # gone, of another user, or its process is alive
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(opened).st_uid == os.geteuid():
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(opened)
