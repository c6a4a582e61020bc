"""Durable writes of files, and locks on files and folders.

A file with its final name is complete. Neither a kill of the process nor a power cut leaves a part
of a file under that name: the file is renamed only after its content has reached the disk. Without
the sync before the rename, a power cut could leave an empty or shorter file under the name.

While a process writes a file or uses a temporary folder, the process holds a lock on it. When a
process is killed, its locks become free. So the next run recognises and removes the files that the
killed process left.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

# The number of bytes of a file that are read at once.
CHUNK = 1024 * 1024
# The name of a file that is not finished yet. obstore leaves such files out of listings.
_STAGED_NAME = re.compile(r".+#\d+")


def publish(staged: Path, target: Path) -> None:
    """Give a finished file or folder its final name, durably.

    All files in a folder are synced too. If the group or other users have no permissions on the
    target's folder, they lose their permissions on the files.
    """
    for path in (staged, *staged.rglob("*")):
        path.chmod(limit_mode(path.stat().st_mode, target.parent))
        sync(path)
    staged.rename(target)
    sync(target.parent)
    if staged.parent != target.parent:
        sync(staged.parent)


def read_pieces(path: Path, size: int = CHUNK) -> Iterator[bytes]:
    """Yield the file's bytes, `size` at a time."""
    with path.open("rb") as file:
        yield from iter(partial(file.read, size), b"")


def compute_sha256(chunks: Iterable[bytes]) -> str:
    """Return the SHA-256 of the content, in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def compute_version(chunks: Iterable[bytes]) -> str:
    """Return the first 16 hex digits of the content's SHA-256."""
    return compute_sha256(chunks)[:16]


def write(target: Path, data: bytes | Path | Iterable[bytes], *, replace: bool = True) -> bool:
    """Write a file durably and atomically, and create its folders.

    data: the content, the path of a file with the content, or chunks of the content.
    replace: if False, a file that exists stays as it is.
    Returns whether the file was written.
    """
    make_folders(target.parent)
    staged, descriptor = _create_staged(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(_split_into_chunks(data))
            file.flush()
            sync(staged)
            if replace:
                staged.rename(target)
            else:
                try:
                    target.hardlink_to(staged)
                except FileExistsError:
                    return False
    finally:
        staged.unlink(missing_ok=True)
    sync(target.parent)
    return True


def _split_into_chunks(data: bytes | Path | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(data, bytes):
        return [data]
    return read_pieces(data) if isinstance(data, Path) else data


def make_folders(folder: Path, mode: int = 0o777) -> None:
    """Create the folder and its missing parents, durably."""
    if folder.is_dir():
        return
    make_folders(folder.parent, mode)
    folder.mkdir(limit_mode(mode, folder.parent), exist_ok=True)
    sync(folder.parent)


def limit_mode(mode: int, folder: Path, *, for_writers: bool = False) -> int:
    """Return the mode without permissions for classes of users that have none on the folder.

    The classes are the group and all other users.
    for_writers: also remove the permissions of a class that may read the folder but not write to
    it.
    """
    mode = stat.S_IMODE(mode)
    needed = 0o222 if for_writers else 0o777
    for class_mask in (0o070, 0o007):
        if not folder.stat().st_mode & class_mask & needed:
            mode &= ~class_mask
    return mode


@contextmanager
def copy_permissions(folder: Path) -> Iterator[None]:
    """Give the group or other users access to new files only if they may write to the folder.

    Until the block ends, this rule holds for the files that this process creates, and for the files
    of the processes that it starts.

    The folder is Dagster's home. A team that shares the home must write to the databases in it. If
    other users can only read the home, somebody made it with `mkdir` and did not mean to share it.
    """
    previous_umask = os.umask(0o077)
    os.umask(previous_umask | (0o777 & ~limit_mode(0o777, folder, for_writers=True)))
    try:
        yield
    finally:
        os.umask(previous_umask)


def remove_staged(folder: Path) -> None:
    """Remove the unfinished files of killed processes from this folder and all folders below it."""
    for path in folder.rglob("*#*"):
        if _STAGED_NAME.fullmatch(path.name) and path.is_file():
            remove_unlocked(path)


def _create_staged(target: Path) -> tuple[Path, int]:
    """Create a locked file next to the target, and return its path and descriptor."""
    while True:
        staged = target.with_name(f"{target.name}#{secrets.randbits(32)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(staged, flags, limit_mode(0o666, target.parent))
        if lock_created(descriptor, staged):
            return staged, descriptor


def lock_created(descriptor: int, path: Path) -> bool:
    """Lock a file or folder that this process has just created.

    Returns False if another process has removed it in between.
    """
    with suppress(OSError):  # A file system may have no locks.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not path.exists():
        os.close(descriptor)
        return False
    return True


def remove_unlocked(path: Path) -> None:
    """Remove the file or folder unless a process has a lock on it.

    Another user's folder stays, and so does a path that cannot be opened or removed.
    """
    with suppress(OSError):  # The path is gone, is another user's, or its process is alive.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            if not stat.S_ISDIR(status.st_mode):
                path.unlink()
            elif status.st_uid == os.geteuid():
                shutil.rmtree(path)
        finally:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Sync a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems can sync files, but not folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def delete_empty_folders(path: Path | None) -> None:
    """Delete the folder and its subfolders, as far as they are empty.

    path: the folder; None for storage in S3, which has no folders.
    """
    if path is None:
        return
    folders = [path, *path.rglob("*")]
    # Subfolders come first, because their parent folder may become empty without them.
    for folder in sorted(folders, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file or folder until the block ends.

    Waits until no other process or thread holds the lock.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing is not enough: a child process that was forked meanwhile has the file open too,
        # and would keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


_PREFIX = "batchrec-temporary-"
# Only folders with such a name are removed, never a folder that a person has named.
_TEMPORARY_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new, empty folder that only this user can read, and remove it when the block ends.

    This process locks the folder. So the next process that makes a temporary folder can remove the
    folders that killed processes left.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder, descriptor = _create_temporary_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _create_temporary_folder() -> tuple[Path, int]:
    """Create a locked temporary folder, and return its path and descriptor."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # Another process has removed it as abandoned.
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            if lock_created(descriptor, folder):
                return folder, descriptor


@cache  # A process removes the abandoned folders only once.
def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        if _TEMPORARY_NAME.fullmatch(folder.name):
            remove_unlocked(folder)
