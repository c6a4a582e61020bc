"""A file in a zip archive: found, distrusted, and read piece by piece."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CHUNK = 1024 * 1024

# Ratings shrink to a fifth or a tenth; what unpacks to far more than that is no data.
MOST_TIMES_LARGER = 200
HARMLESS_SIZE = 100 * 1024 * 1024

ENCRYPTED = 0x1
DATA_SUFFIXES = {".csv", ".dat", ".data", ".inter", ".tab", ".tsv", ".txt"}
MEMBERS_SHOWN = 10


class ArchiveError(Exception):
    """The archive, or the file in it, cannot be read; the message says why, not which."""


class DamagedError(ArchiveError):
    """The archive is no zip file, or does not hold what its checksums say."""


def find_member(archive: Path, member: str) -> zipfile.ZipInfo:
    """What the archive's directory says of the file. Raises ArchiveError, OSError."""
    with _opened(archive) as opened:
        return _find(opened, member)


def read_member(archive: Path, member: str) -> Iterator[bytes]:
    """The file piece by piece, its checksum verified at the end. Raises ArchiveError, OSError."""
    with _opened(archive) as opened:
        info = _find(opened, member)
        try:
            # zipfile stops at the declared size, so that this is also the most it unpacks to.
            with opened.open(info) as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise DamagedError(f"it is damaged ({error}): get it again") from error
        except (NotImplementedError, RuntimeError) as error:
            raise ArchiveError(
                f"it cannot be unpacked ({error}): pack it as a plain zip"
            ) from error


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise DamagedError(
            f"the archive is no zip file, or damaged ({error}): get it again"
        ) from error


def _find(archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise ArchiveError(f"there is no such file in it; {_contents(archive)}") from None
    if info.is_dir():
        raise ArchiveError(f"it is a folder of the archive; {_contents(archive)}")
    if info.flag_bits & ENCRYPTED:
        raise ArchiveError("it is encrypted: pack it without a password")
    if info.file_size > max(HARMLESS_SIZE, MOST_TIMES_LARGER * info.compress_size):
        raise ArchiveError(
            f"it would unpack from {info.compress_size} to {info.file_size} bytes, more than"
            f" {MOST_TIMES_LARGER} times: if it is data all the same, unpack it yourself"
        )
    return info


def _contents(archive: zipfile.ZipFile) -> str:
    files = [info.filename for info in archive.infolist() if not info.is_dir()]
    data = [name for name in files if PurePosixPath(name).suffix.lower() in DATA_SUFFIXES]
    shown = [name for name in data or files if not name.startswith("__MACOSX/")]
    if not shown:
        return "it is empty"
    more = "" if len(shown) <= MEMBERS_SHOWN else f" and {len(shown) - MEMBERS_SHOWN} more"
    names = ", ".join(shown[:MEMBERS_SHOWN])
    # They are the archive's word, and this is to be one line.
    return "it has " + "".join(c if c.isprintable() else "?" for c in names) + more
