"""Which processes work in a home: each holds a lock on a file for as long as it lives.

The kernel releases the lock when the process ends, so a dead owner is noticed at once: no lease has
to expire, and a reused process id is never mistaken for the owner.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from batchrec_dagster.storage.durable import exclusive_lock

_SUFFIX = ".owner"


class OwnerLock:
    """The lock that shows that this process is alive. It must not be used in a forked child."""

    def __init__(self, folder: Path) -> None:
        """Create and lock a file in `folder`, where all owners of a home have theirs."""
        self.name = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._path = folder / f"{self.name}{_SUFFIX}"
        # Nobody may see the file before it is locked.
        with exclusive_lock(folder):
            self._file = self._path.open("w")
            # A forked child shares the lock. It must not keep it when this process is gone.
            os.register_at_fork(after_in_child=self._file.close)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Release the lock, so that other workers may claim this owner's unfinished jobs."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def is_owner_alive(folder: Path, name: str) -> bool:
    """Tell whether the owner's process still runs, and remove the file of a dead one.

    folder: where all owners of a home have their files.
    name: the `OwnerLock.name` of the owner.
    """
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


def remove_dead_owners(folder: Path) -> None:
    """Remove the lock files of processes that have ended."""
    with exclusive_lock(folder):
        for path in folder.glob(f"*{_SUFFIX}"):
            is_owner_alive(folder, path.name.removesuffix(_SUFFIX))
