"""A file in a zip archive, or a sheet of a workbook, as a source."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.sources.errors import DamagedFileError, FileError
from batchrec_dagster.preparation.sources.files import LocalFile, S3File, WebFile
from batchrec_dagster.preparation.sources.limits import LimitError
from batchrec_dagster.preparation.sources.source import EMPTY, File, FileDescription, SourceContext
from batchrec_dagster.storage.durable import read_pieces, temporary_folder

# The member of an archive that has one file.
THE_ONLY_FILE = ""


# A whole archive, which must be read for any of its files.
Archive = LocalFile | S3File | WebFile


@dataclass(frozen=True)
class Member(File):
    """`ARCHIVE.zip!/path/in/it.csv` or `BOOK.xlsx!/SHEET`."""

    archive: Archive
    member: str

    @property
    def name(self) -> str:
        return self.member or re.sub(r"(?i)\.zip$", "", self.text.partition("?")[0])

    def describe(self, context: SourceContext) -> FileDescription:
        description = self.archive.describe(context)
        if description.size == 0:
            raise FileError(EMPTY)
        if isinstance(self.archive, LocalFile):
            path = self.archive.path(context)
            with _explain_limits(), ConfinedReader() as reader:
                arguments = {"path": str(path.absolute()), "member": self.member}
                reader.run("find_member", arguments, packed=path.stat().st_size)
        return FileDescription(None, f"{description.version}!/{self.member}")

    def remove_downloads(self, context: SourceContext) -> None:
        self.archive.remove_downloads(context)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        path = self.archive.path(context)
        try:
            yield from read_member(path, self.member)
        except DamagedFileError:
            # A damaged download is fetched again next time; the user's own file stays.
            if path.is_relative_to(context.cache):
                path.unlink(missing_ok=True)
            raise


def read_member(archive: Path, member: str) -> Iterator[bytes]:
    """The file of the archive, or its sheet as CSV, piece by piece.

    It is checked in full before the first piece is given. Raises FileError, OSError.
    """
    with temporary_folder() as folder:
        target = folder / "member"
        arguments = {"path": str(archive.absolute()), "member": member, "target": str(target)}
        with _explain_limits(), ConfinedReader() as reader:
            reader.run("write_member", arguments, packed=archive.stat().st_size)
        yield from read_pieces(target)


@contextmanager
def _explain_limits() -> Iterator[None]:
    """Make a FileError of a LimitError."""
    try:
        yield
    except LimitError as error:
        raise FileError(str(error)) from error
