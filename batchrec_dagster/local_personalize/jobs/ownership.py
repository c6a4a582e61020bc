"""Who has a piece of work in hand, and whether they are still alive.

An owner holds a lock on a file for as long as its process lives; the kernel lets go of the lock
when the process ends, however it ends. So a dead owner is seen at once, without waiting for a
lease to run out, and a process id that was given out again cannot be taken for the owner.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUFFIX = ".owner"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits until no other process or thread is inside a block on this file or folder."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    opened = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        # Closing is not enough: a child that was forked meanwhile has the file open too.
        fcntl.flock(opened, fcntl.LOCK_UN)
        os.close(opened)


class Owner:
    """This process, as one that takes on work. Only what a fork leaves behind must not use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._path = folder / f"{self.name}{_SUFFIX}"
        with exclusive(folder):  # who looks for dead owners does not find it before it is locked
            self._file = self._path.open("w")
            # A forked child shares the lock; it must not keep it when this process is gone.
            os.register_at_fork(after_in_child=self._file.close)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Give everything up: what is still in hand is there for others to take."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def bury(folder: Path) -> None:
    """Remove the files of owners whose process is gone."""
    with exclusive(folder):
        for path in folder.glob(f"*{_SUFFIX}"):
            is_alive(folder, path.name.removesuffix(_SUFFIX))


def is_alive(folder: Path, name: str) -> bool:
    """Whether the owner's process still runs. A dead owner's file is removed."""
    path = folder / f"{name}{_SUFFIX}"
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
