"""The first bytes of a source's file: enough to see its format and its columns, quickly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec_dagster.preparation.sources import formats
from batchrec_dagster.preparation.sources.archives import Member
from batchrec_dagster.preparation.sources.download import read_start
from batchrec_dagster.preparation.sources.files import LocalFile, WebFile
from batchrec_dagster.preparation.sources.source import (
    File,
    SourceContext,
    name_errors,
    safe_filename,
)
from batchrec_dagster.storage.durable import temporary_folder

# Of a longer text no more bytes than these are read.
TEXT_BYTES = 4 * 1024 * 1024
# Over a network, fewer.
REMOTE_BYTES = 256 * 1024
# Other formats can only be opened whole. A larger file of such a format is not opened.
MOST_PACKED_BYTES = 64 * 1024 * 1024


@contextmanager
def open_start(file: File, context: SourceContext) -> Iterator[Path | None]:
    """A file on this machine that is the whole file, or the first lines of a longer text.

    None if only reading much more would show the columns: of a large packed file, and of one that
    is neither text nor on this machine. Raises UserError.
    """
    if isinstance(file, Member):
        if _is_small_archive(file, context):
            with file.open_locally(context) as path:
                yield path
        else:
            yield None
        return
    with temporary_folder() as folder:
        with name_errors(file.display_name):
            start = _find_or_write_start(file, context, folder)
        yield start


def _is_small_archive(member: Member, context: SourceContext) -> bool:
    """Whether the archive is on this machine, and quickly read."""
    archive = member.archive
    if not isinstance(archive, LocalFile):
        return False
    with name_errors(member.display_name):
        return archive.path(context).stat().st_size <= MOST_PACKED_BYTES


def _find_or_write_start(file: File, context: SourceContext, folder: Path) -> Path | None:
    """The path of the file, or of its start in the folder; None as of `open_start`."""
    path = None if isinstance(file, WebFile) else file.local_path(context)
    if path is None:
        start = _read_remote_start(file, context)
        if not formats.is_text(start[: formats.START]):
            return None
    else:
        size = path.stat().st_size
        if size <= TEXT_BYTES:
            return path
        with path.open("rb") as opened:
            start = opened.read(TEXT_BYTES)
        if not formats.is_text(start[: formats.START]):
            return path if size <= MOST_PACKED_BYTES else None
    first_lines = folder / safe_filename(file.name)
    first_lines.write_bytes(_cut_at_line_end(start))
    return first_lines


def _read_remote_start(file: File, context: SourceContext) -> bytes:
    """The first bytes of a file on the web or in a bucket."""
    if isinstance(file, WebFile):
        return read_start(file.text, REMOTE_BYTES)
    start = b""
    for chunk in file.chunks(context):
        start += chunk
        if len(start) >= REMOTE_BYTES:
            break
    return start


def _cut_at_line_end(start: bytes) -> bytes:
    """The complete lines of a text that may go on."""
    if start.startswith(formats.UTF16):
        # A character has two bytes, of which one may be that of a line end.
        return start[: len(start) // 2 * 2]
    return start[: start.rfind(b"\n") + 1] or start
