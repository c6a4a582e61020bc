"""Files that are complete wherever they exist, whatever kills the process or the machine.

A file gets its name by a rename, after its content has reached the disk: without the sync, a power
cut may leave the name with an empty or shorter file. While a file or folder is being written, its
process holds a lock on it, so that the next run knows what a killed one left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The name of a file that is not finished yet. obstore lists no such file.
_STAGED = re.compile(r".+#\d+")
_TEMPORARY = "batchrec-tmp-"


def publish(staged: Path, target: Path) -> None:
    """Give a finished file or folder, with all that is in it, its name, durably."""
    for folder, _, names in os.walk(staged):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
    if not staged.is_dir():
        sync(staged)
    staged.rename(target)
    sync(target.parent)
    if staged.parent != target.parent:
        sync(staged.parent)


def write(target: Path, data: Iterable[bytes], *, replace: bool = True) -> bool:
    """Write a file from chunks, durably and in one moment, and the folders that it is in.

    Without `replace`, nothing changes if the file exists. Returns whether it was written.
    """
    make_folders(target.parent)
    staged, opened = _new_staged(target)
    try:
        with os.fdopen(opened, "wb") as file:
            file.writelines(data)
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


def make_folders(folder: Path, mode: int = 0o777) -> None:
    """Create the folder and those above it, durably, where they are missing."""
    if folder.is_dir():
        return
    make_folders(folder.parent, mode)
    folder.mkdir(mode, exist_ok=True)
    sync(folder.parent)


def remove_staged(folder: Path) -> None:
    """Remove what killed processes were writing to this folder and those below it."""
    for path in folder.rglob("*#*"):
        if _STAGED.fullmatch(path.name) and path.is_file():
            _remove_unlocked(path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed in the end; those of killed processes are removed first."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            if left.lstat().st_uid == os.geteuid():
                _remove_unlocked(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
        opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        if _lock(opened, folder):
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(opened)


def _new_staged(target: Path) -> tuple[Path, int]:
    while True:
        staged = target.with_name(f"{target.name}#{secrets.randbits(32)}")
        opened = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _lock(opened, staged):
            return staged, opened


def _lock(opened: int, path: Path) -> bool:
    """Lock what this process has just created; False if another has removed it in between."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(opened, fcntl.LOCK_EX)
    if not path.exists():
        os.close(opened)
        return False
    return True


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError):  # gone, or its process is alive
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        finally:
            os.close(opened)


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some network file systems sync files, but no folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)
