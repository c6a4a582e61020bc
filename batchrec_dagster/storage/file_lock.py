"""A lock between processes and threads, on a file or folder of this machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
