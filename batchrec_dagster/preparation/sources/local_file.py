"""A file on this machine as it was when its source was listed, even if it has grown since."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import ListedFile, follow_links
from batchrec_dagster.storage.durable import CHUNK

# The number of bytes at the end of the file that a snapshot keeps.
SAMPLED_END = 4096


@dataclass(frozen=True)
class FileSnapshot:
    """The state of a local file at one point in time."""

    inode: tuple[int, int]
    """The identity of the file: its device and its inode."""

    size: int
    """The size in bytes."""

    version: str
    """A text that changes when the file does."""

    end: bytes
    """The last bytes, which show whether the file has only grown since."""

    @classmethod
    def take(cls, file: IO[bytes]) -> Self:
        """Return a snapshot of an open file."""
        status = os.fstat(file.fileno())
        start = max(0, status.st_size - SAMPLED_END)
        end = os.pread(file.fileno(), status.st_size - start, start)
        version = f"{status.st_size} bytes, {status.st_mtime_ns} ns"
        return cls((status.st_dev, status.st_ino), status.st_size, version, end)

    @property
    def complete_lines_size(self) -> int:
        """The size of the complete lines in bytes.

        It is -1 if no line ends within `end`, or if the file is not text.
        """
        last_line_end = self.end.rfind(b"\n") + 1
        if not last_line_end or b"\0" in self.end:
            return -1
        return self.size - len(self.end) + last_line_end

    def has_only_grown(self, file: IO[bytes]) -> bool:
        """Return whether text was appended since the snapshot, and nothing else has changed.

        Of the old content, only the bytes in `end` are compared.
        """
        current = FileSnapshot.take(file)
        end = os.pread(file.fileno(), len(self.end), self.size - len(self.end))
        is_larger = current.size > self.size and current.inode == self.inode
        return is_larger and end == self.end and self.complete_lines_size >= 0


@dataclass(frozen=True)
class _LocalContent:
    """The content of a file as of its listing."""

    path: Path

    folder: Path | None
    """The folder that the file was found in; a link must not lead out of the folder."""

    snapshot: FileSnapshot

    def find(self) -> Path:
        """Return the file's path.

        Raises FileError if the path is no longer a file, or if it is a link out of the folder.
        """
        return require_file(self.path, self.folder)

    def read(self) -> Iterator[bytes]:
        """Yield the content as of the snapshot.

        If the file has grown since, the content ends before a last line that was incomplete in the
        snapshot. Raises FileError if the file was rewritten.
        """
        with self.find().open("rb") as file:
            size = self.snapshot.complete_lines_size
            if size < 0:
                size = self.snapshot.size
            yield from _read_bytes(file, size)
            last_line = file.read(self.snapshot.size - size)
            if FileSnapshot.take(file).version != self.snapshot.version:
                if not self.snapshot.has_only_grown(file):
                    raise FileError(
                        "it was rewritten while this run read it: try again when it is complete"
                    )
                last_line = b""
            if last_line:
                yield last_line

    def has_changed(self) -> bool:
        try:
            with self.find().open("rb") as file:
                return FileSnapshot.take(file).version != self.snapshot.version
        except (FileError, OSError):
            return True  # The file is gone.


def list_local_file(
    path: Path, display_name: str, filename: str, folder: Path | None = None
) -> ListedFile:
    """Return the file as it is now, as a listed file.

    folder: the folder that the file was found in; a link must not lead out of the folder.

    Raises FileError, OSError.
    """
    with require_file(path, folder).open("rb") as file:
        listed = _LocalContent(path, folder, FileSnapshot.take(file))
    return ListedFile(
        display_name,
        filename,
        listed.snapshot.version,
        listed.read,
        find=listed.find,
        has_changed=listed.has_changed,
    )


def require_file(path: Path, folder: Path | None = None) -> Path:
    """Return the path of the file.

    Raises FileError if the path is not a regular file, or if it is a link out of the folder.
    """
    if path.is_dir():
        raise FileError("it is a folder: name a file in it")
    if not path.is_file():
        reason = "it is not a regular file" if path.exists() else "there is no such file"
        raise FileError(f"{reason}: looked at {path}")
    if folder is not None:
        follow_links(path, folder)
    return path


def _read_bytes(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes, piece by piece."""
    while piece := file.read(min(CHUNK, size)):
        yield piece
        size -= len(piece)
