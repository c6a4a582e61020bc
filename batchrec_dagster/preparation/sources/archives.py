"""A file in a zip archive: found, distrusted, and read piece by piece."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.sources.conversion import CONVERSIONS, Conversion
from batchrec_dagster.preparation.sources.files import LocalFile
from batchrec_dagster.preparation.sources.formats import START, format_of
from batchrec_dagster.preparation.sources.limits import LimitError, Limits
from batchrec_dagster.preparation.sources.source import EMPTY, File, FileError, Look, SourceContext
from batchrec_dagster.storage.durable import pieces, temporary_folder

CHUNK = 1024 * 1024

ENCRYPTED = 0x1
DATA_SUFFIXES = {".csv", ".dat", ".data", ".inter", ".tab", ".tsv", ".txt"}
MEMBERS_SHOWN = 10


class DamagedError(FileError):
    """The archive is not a zip file, or does not match its checksums."""


class Archive(Protocol):
    """A whole archive, which reading a file of it takes."""

    def look(self, context: SourceContext) -> Look: ...

    def path(self, context: SourceContext) -> Path:
        """The archive as a file on this machine."""


@dataclass(frozen=True)
class Member(File):
    """`ARCHIVE.zip!/path/in/it.csv`, `BOOK.xlsx!/SHEET`, `SHOP.sqlite!/TABLE`, or a file of a
    published data set."""

    archive: Archive
    member: str
    known_layout: Layout | None = None

    @property
    def name(self) -> str:
        return self.member

    @property
    def layout(self) -> Layout | None:
        return self.known_layout

    def look(self, context: SourceContext) -> Look:
        look = self.archive.look(context)
        if look.size == 0:
            raise FileError(EMPTY)
        if isinstance(self.archive, LocalFile) and not _conversion(self.archive.path(context)):
            with _opened(self.archive.path(context)) as archive:
                _find(archive, self.member)
        return Look(None, f"{look.version}!/{self.member}")

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        path = self.archive.path(context)
        try:
            if conversion := _conversion(path):
                yield from _sheet(path, self.member, conversion)
            else:
                yield from read_member(path, self.member)
        except DamagedError:
            # A damaged download is fetched again next time; the user's own file stays.
            if path.is_relative_to(context.cache):
                path.unlink(missing_ok=True)
            raise


def _conversion(path: Path) -> Conversion | None:
    """What makes a file of a sheet or a table, if the archive has such."""
    with path.open("rb") as file:
        return CONVERSIONS.get(format_of(file.read(START)) or "")


def _sheet(path: Path, name: str, conversion: Conversion) -> Iterator[bytes]:
    with temporary_folder() as folder:
        target = folder / "sheet"
        try:
            conversion.convert(path, target, name, Limits.from_environment())
        except LimitError as error:
            raise FileError(str(error)) from error
        yield from pieces(target)


def read_member(archive: Path, member: str) -> Iterator[bytes]:
    """The file piece by piece, its checksum verified at the end. Raises FileError, OSError."""
    with _opened(archive) as opened:
        info = _find(opened, member)
        try:
            # zipfile stops at the declared size, so that this is also the most it unpacks to.
            with opened.open(info) as file:
                start = chunk = file.read(CHUNK)
                Limits.from_environment().check_twice(start, info.file_size, info.compress_size)
                while chunk:
                    yield chunk
                    chunk = file.read(CHUNK)
        except LimitError as error:
            raise FileError(str(error)) from error
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise DamagedError(f"it is damaged ({error}): download or copy it again") from error
        except (NotImplementedError, RuntimeError) as error:
            raise FileError(f"it cannot be unpacked ({error}): pack it as a plain zip") from error


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise DamagedError(
            f"the archive is not a zip file, or is damaged ({error}): download or copy it again"
        ) from error


def _find(archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise FileError(f"there is no such file in it; {_contents(archive)}") from None
    if info.is_dir():
        raise FileError(f"it is a folder of the archive; {_contents(archive)}")
    if info.flag_bits & ENCRYPTED:
        raise FileError("it is encrypted: pack it without a password")
    try:
        Limits.from_environment().check(info.file_size, info.compress_size)
    except LimitError as error:
        raise FileError(str(error)) from error
    return info


def _contents(archive: zipfile.ZipFile) -> str:
    files = [info.filename for info in archive.infolist() if not info.is_dir()]
    data = [name for name in files if PurePosixPath(name).suffix.lower() in DATA_SUFFIXES]
    shown = [name for name in data or files if not name.startswith("__MACOSX/")]
    if not shown:
        return "it is empty"
    more = "" if len(shown) <= MEMBERS_SHOWN else f" and {len(shown) - MEMBERS_SHOWN} more"
    names = ", ".join(shown[:MEMBERS_SHOWN])
    # Names come from outside, and this must be one line.
    return "it has " + "".join(c if c.isprintable() else "?" for c in names) + more
