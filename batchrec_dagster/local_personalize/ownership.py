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
    """Waits until no other process or thread is inside a block on this file."""
    with path.open("a") as file:
        path.chmod(0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing is not enough: a child that was forked meanwhile has the file open too.
            fcntl.flock(file, fcntl.LOCK_UN)


class Owner:
    """This process, as one that takes on work. Only what a fork leaves behind must not use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._path = folder / f"{self.name}{_SUFFIX}"
        # Locked before it has its name: nobody finds an owner's file without its lock.
        draft = folder / f"{self.name}.draft"
        self._file = draft.open("w")
        # A forked child shares the lock; it must not keep it when this process is gone.
        os.register_at_fork(after_in_child=self._file.close)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        draft.rename(self._path)

    def close(self) -> None:
        """Give everything up: what is still in hand is there for others to take."""
        self._path.unlink(missing_ok=True)
        self._file.close()


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
