"""The start of a source's file: enough bytes to see its format and its columns quickly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec_dagster.preparation.sources import file_formats
from batchrec_dagster.preparation.sources.source import ListedFile, make_filename, name_errors
from batchrec_dagster.storage.durable import temporary_folder

# The size in bytes of the largest local file that is opened whole.
MOST_BYTES = 64 * 1024 * 1024
# The number of bytes that are read of a larger local file, and of a file on the network.
START_BYTES = 256 * 1024


@contextmanager
def open_start(file: ListedFile) -> Iterator[Path | None]:
    """Yield a local file with the whole content, or with the first lines of a longer text.

    Yields None for a file that is not text and is either large or not on this machine. Much more of
    such a file would have to be read to see its columns. Raises UserError.
    """
    with temporary_folder() as folder:
        with name_errors(file.display_name):
            start = _find_or_write_start(file, folder)
        yield start


def _find_or_write_start(file: ListedFile, folder: Path) -> Path | None:
    """Return the path of the file, or write its start into the folder and return the start's path.

    Returns None in the same cases as `open_start`.
    """
    if file.find is not None:
        path = file.find()
        if path.stat().st_size <= MOST_BYTES:
            return path
    start = b""
    for chunk in file.read():
        start += chunk
        if len(start) >= START_BYTES:
            break
    if not file_formats.is_text(start[: file_formats.START]):
        return None
    first_lines = folder / make_filename(file.filename)
    first_lines.write_bytes(_cut_at_line_end(start))
    return first_lines


def _cut_at_line_end(start: bytes) -> bytes:
    """Cut off the last line of a text, which may be incomplete.

    A text without a line end stays whole. In UTF-16, only an incomplete last character is cut off.
    """
    if start.startswith(file_formats.UTF16):
        # A character has two bytes, and either byte alone may look like a line end.
        return start[: len(start) // 2 * 2]
    return start[: start.rfind(b"\n") + 1] or start
