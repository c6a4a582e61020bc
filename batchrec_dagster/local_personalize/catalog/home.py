"""The folder of one local Personalize, and which processes work in it. Private to the user.

A worker locks an owner file for as long as its process lives. The kernel releases the lock when
the process ends, so a dead owner is noticed at once: no lease has to expire, and a reused process
id is never mistaken for the owner.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import exclusive


class Home:
    """Paths under the folder. Readers ignore files that the catalog does not name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.catalog = root / "catalog.sqlite"
        self.datasets, self.models = root / "datasets", root / "models"
        self.batches, self.owners = root / "batches", root / "owners"
        for folder in (root, self.datasets, self.models, self.batches, self.owners):
            durable.make_folders(folder, 0o700)

    @property
    def has_data(self) -> bool:
        """Whether anything was imported or trained here."""
        return any(path for folder in (self.datasets, self.models) for path in folder.iterdir())

    def make_path(self, folder: Path, arn: str) -> Path:
        """A unique path, so that nobody reads the files of an attempt that died."""
        return folder / f"{self.make_attempt_prefix(arn)}{uuid.uuid4().hex}"

    def make_attempt_prefix(self, arn: str) -> str:
        """The prefix of every file name that jobs on this resource write."""
        _, _, _, region, account, resource = arn.split(":", 5)
        return f"{region}.{account}.{resource.replace('/', '.')}."

    @contextmanager
    def open_workspace(self, folder: Path, arn: str) -> Iterator[Path]:
        """A folder for one attempt at this resource, removed at its end; removes earlier ones."""
        for path in folder.glob(f"{self.make_attempt_prefix(arn)}*"):
            remove_path(path)
        work = self.make_path(folder, arn)
        work.mkdir(mode=0o700)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def publish(self, work: Path, folder: Path, arn: str) -> str:
        """Move finished work to a path of its own in the folder; returns that path as the catalog
        stores it, relative so that the home can be moved."""
        published = self.make_path(folder, arn)
        durable.publish(work, published)
        return published.relative_to(self.root).as_posix()


def remove_path(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_SUFFIX = ".owner"


class OwnerLock:
    """The lock that shows that this process is alive. Do not use it in a forked child."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._path = folder / f"{self.name}{_SUFFIX}"
        with exclusive(folder):  # nobody may see the file before it is locked
            self._file = self._path.open("w")
            # A forked child shares the lock; it must not keep it when this process is gone.
            os.register_at_fork(after_in_child=self._file.close)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Release the lock: other workers may claim this owner's unfinished jobs."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def remove_dead_owners(folder: Path) -> None:
    """Remove the lock files of processes that have ended."""
    with exclusive(folder):
        for path in folder.glob(f"*{_SUFFIX}"):
            is_owner_alive(folder, path.name.removesuffix(_SUFFIX))


def is_owner_alive(folder: Path, name: str) -> bool:
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
