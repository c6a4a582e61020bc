"""The source for a file in a zip archive, or for a sheet of a workbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.sources import file_formats
from batchrec_dagster.preparation.sources.errors import DamagedFileError, FileError
from batchrec_dagster.preparation.sources.files import LocalFile, S3File
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.sources.packing import unpack_member
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    make_filename,
    name_errors,
)
from batchrec_dagster.preparation.sources.web import WebFile
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.local_copies import open_copy, remove_copies

# The sources that can be an archive. The whole archive must be read for any file in it.
Archive = LocalFile | S3File | WebFile


@dataclass(frozen=True)
class Member(RowSource):
    """A file in an archive, `ARCHIVE.zip!/path/in/it.csv`, or a sheet, `BOOK.xlsx!/SHEET`."""

    archive: Archive

    member: str
    """The path in the archive, or the name of the sheet; empty for an archive's only file."""

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return the file without opening the archive, so the archive may not have the file.

        Raises UserError.
        """
        archives = self.archive.files(context)
        with name_errors(self.display_name):
            if len(archives) != 1:
                raise FileError("it is a folder: name a file in it")
        archive = archives[0]
        without_packing = re.sub(r"(?i)\.zip$", "", unquote(self.archive.display_name))
        return [
            ListedFile(
                self.display_name,
                make_filename(self.member or without_packing),
                f"{archive.fingerprint}!/{self.member}",
                partial(self._read, archive, self._choose_folder(context)),
            )
        ]

    def remove_downloads(self, context: SourceContext) -> None:
        remove_copies(self._choose_folder(context))

    def _choose_folder(self, context: SourceContext) -> Path:
        """Return the folder that keeps a downloaded archive for its other files."""
        return context.cache / durable.compute_version([self.archive.text.encode()])

    def _read(self, archive: ListedFile, downloads: Path) -> Iterator[bytes]:
        """Yield the file of the archive, or the sheet as CSV, piece by piece.

        The file is checked in full before the first piece is yielded. Raises FileError, OSError.
        """
        with durable.temporary_folder() as folder:
            target = folder / "member"
            with self._open(archive, downloads) as path:
                try:
                    _write_member(path, self.member, target)
                except DamagedFileError:
                    # A damaged download is fetched again next time; the user's own file stays.
                    if archive.find is None:
                        path.unlink(missing_ok=True)
                    raise
            yield from durable.read_pieces(target)

    @contextmanager
    def _open(self, archive: ListedFile, downloads: Path) -> Iterator[Path]:
        """Yield the path of the archive on this machine, downloaded if it is elsewhere."""
        if archive.find is not None:
            yield archive.find()
            return
        text, fingerprint = self.archive.text, archive.fingerprint
        with open_copy(downloads, text, fingerprint, "archive", archive.read) as path:
            yield path


def _write_member(archive: Path, member: str, target: Path) -> None:
    """Write the file of the archive, or the sheet as CSV, to `target`.

    Raises FileError.
    """
    if file_formats.recognise_format(file_formats.read_start(archive)) != file_formats.EXCEL:
        unpack_member(archive, member, target, Limits.from_environment())
        return
    with ConfinedReader() as reader:
        packed = archive.stat().st_size
        reader.convert(file_formats.EXCEL, archive, target, part=member or None, packed=packed)
