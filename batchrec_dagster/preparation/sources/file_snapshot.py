"""What a local file was like at one point in time, to see whether it has changed since."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import IO, Self

# How many bytes of the end are kept.
SAMPLED_END = 4096


@dataclass(frozen=True)
class FileSnapshot:
    """A local file as of one point in time."""

    inode: tuple[int, int]
    """Which file it is: the device and the inode."""

    size: int
    """The size in bytes."""

    version: str
    """What changes when the file does."""

    end: bytes
    """The last bytes, which show whether the file only grew since."""

    @classmethod
    def take(cls, file: IO[bytes]) -> Self:
        """The snapshot of an open file."""
        status = os.fstat(file.fileno())
        start = max(0, status.st_size - SAMPLED_END)
        end = os.pread(file.fileno(), status.st_size - start, start)
        version = f"{status.st_size} bytes, {status.st_mtime_ns} ns"
        return cls((status.st_dev, status.st_ino), status.st_size, version, end)

    @property
    def complete_lines_size(self) -> int:
        """The size of the complete lines; -1 if none ends in `end`, or the file is not text."""
        last_line_end = self.end.rfind(b"\n") + 1
        if not last_line_end or b"\0" in self.end:
            return -1
        return self.size - len(self.end) + last_line_end

    def only_grew(self, file: IO[bytes]) -> bool:
        """Whether text was added to the file since, and nothing else was done."""
        current = FileSnapshot.take(file)
        end = os.pread(file.fileno(), len(self.end), self.size - len(self.end))
        is_larger = current.size > self.size and current.inode == self.inode
        return is_larger and end == self.end and self.complete_lines_size >= 0
