"""The first bytes of a source's file: enough to see its format and its columns, quickly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec_dagster.preparation.sources import file_formats
from batchrec_dagster.preparation.sources.source import ListedFile, make_filename, name_errors
from batchrec_dagster.storage.durable import temporary_folder

# A larger file is not opened whole.
MOST_BYTES = 64 * 1024 * 1024
# Of a larger text, and over a network, this many bytes are read.
START_BYTES = 256 * 1024


@contextmanager
def open_start(file: ListedFile) -> Iterator[Path | None]:
    """A file on this machine that is the whole file, or the first lines of a longer text.

    None if only reading much more would show the columns: of a large packed file, and of one that
    is neither text nor on this machine. Raises UserError.
    """
    with temporary_folder() as folder:
        with name_errors(file.display_name):
            start = _find_or_write_start(file, folder)
        yield start


def _find_or_write_start(file: ListedFile, folder: Path) -> Path | None:
    """The path of the file, or of its start in the folder; None as of `open_start`."""
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
    """The complete lines of a text that may go on."""
    if start.startswith(file_formats.UTF16):
        # A character has two bytes, of which one may be that of a line end.
        return start[: len(start) // 2 * 2]
    return start[: start.rfind(b"\n") + 1] or start
