"""Jobs of the child process: a file of a zip archive, a sheet of a workbook."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from batchrec_dagster.preparation.confined.child import ConfinedJob
from batchrec_dagster.preparation.confined.conversions import CONVERSIONS, Conversion
from batchrec_dagster.preparation.sources.errors import DamagedFileError, FileError
from batchrec_dagster.preparation.sources.formats import START, recognise_format
from batchrec_dagster.preparation.sources.limits import Limits

CHUNK = 1024 * 1024
ENCRYPTED = 0x1
DATA_SUFFIXES = {
    *(".csv", ".dat", ".data", ".inter", ".tab", ".tsv", ".txt"),
    *(".json", ".jsonl", ".ndjson", ".parquet"),
}
MEMBERS_SHOWN = 10


def find_member(job: ConfinedJob, path: str, member: str) -> None:
    """Raise FileError if the zip archive has no such file.

    member: the path of the file in the archive; empty for the only one.

    The sheets of a workbook are found when it is read.
    """
    if _find_conversion(Path(path)) is None:
        with _open(Path(path)) as archive:
            _find_info(archive, member, job.limits)


def write_member(job: ConfinedJob, path: str, member: str, target: str) -> None:
    """Write the file of the archive, or what its sheet becomes, to the path `target`."""
    archive_path, target_path = Path(path), Path(target)
    if conversion := _find_conversion(archive_path):
        packed = archive_path.stat().st_size
        conversion.convert(archive_path, target_path, member, job.limits, packed)
        return
    with _open(archive_path) as archive:
        info = _find_info(archive, member, job.limits)
        job.limit_output(min(info.compress_size, archive_path.stat().st_size))
        try:
            with archive.open(info) as file, target_path.open("wb") as output:
                chunk = file.read(CHUNK)
                job.limits.check_twice(chunk, info.file_size, info.compress_size)
                while chunk:
                    output.write(chunk)
                    chunk = file.read(CHUNK)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise DamagedFileError(f"it is damaged ({error}): download or copy it again") from error
        except (NotImplementedError, RuntimeError) as error:
            raise FileError(f"it cannot be unpacked ({error}): pack it as a plain zip") from error


def _find_conversion(path: Path) -> Conversion | None:
    """What makes a file of a sheet, if the archive has such."""
    with path.open("rb") as file:
        return CONVERSIONS.get(recognise_format(file.read(START)) or "")


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DamagedFileError(
            f"the archive is not a zip file, or is damaged ({error}): download or copy it again"
        ) from error


def _find_info(archive: zipfile.ZipFile, member: str, limits: Limits) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(member or _find_only_file(archive))
    except KeyError:
        raise FileError(f"there is no such file in it; {_list_contents(archive)}") from None
    if info.is_dir():
        raise FileError(f"it is a folder of the archive; {_list_contents(archive)}")
    if info.flag_bits & ENCRYPTED:
        raise FileError("it is encrypted: pack it without a password")
    limits.check(info.file_size, info.compress_size)
    return info


def _find_only_file(archive: zipfile.ZipFile) -> str:
    """The name of the one file of data in the archive. Raises FileError if there are others."""
    names = _list_data(archive)
    if len(names) != 1:
        raise FileError(
            f"{_list_contents(archive)}: add !/ and the path of one, such as"
            " ARCHIVE.zip!/orders.csv"
        )
    return names[0]


def _list_contents(archive: zipfile.ZipFile) -> str:
    names = _list_data(archive)
    if not names:
        return "it is empty"
    more = "" if len(names) <= MEMBERS_SHOWN else f" and {len(names) - MEMBERS_SHOWN} more"
    listed_names = ", ".join(names[:MEMBERS_SHOWN])
    # Names come from outside, and this must be one line.
    return "it has " + "".join(c if c.isprintable() else "?" for c in listed_names) + more


def _list_data(archive: zipfile.ZipFile) -> list[str]:
    """The names of the files of data; of all files if no name says that it is one."""
    files = [info.filename for info in archive.infolist() if not info.is_dir()]
    files = [name for name in files if not name.startswith("__MACOSX/")]
    data = [name for name in files if PurePosixPath(name).suffix.lower() in DATA_SUFFIXES]
    return data or files
