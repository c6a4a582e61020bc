"""The unpacking of gzip and zstd files, and of files in a zip archive.

A file is unpacked piece by piece, and the unpacked bytes are counted. So the unpacking of a
decompression bomb stops at the limit on the unpacked size. No size that a file states about itself
is trusted.
"""

from __future__ import annotations

import errno
import gzip
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from batchrec_dagster.preparation.sources import file_formats
from batchrec_dagster.preparation.sources.errors import DamagedFileError, FileError
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.storage.durable import CHUNK

ENCRYPTED = 0x1
# The methods of zip that are unpacked. Other methods may take as much memory as the file demands.
PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DATA_SUFFIXES = {
    *(".csv", ".dat", ".data", ".inter", ".tab", ".tsv", ".txt"),
    *(".json", ".jsonl", ".ndjson", ".parquet"),
}
MEMBERS_SHOWN = 10


def _open_zstd(path: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


UNPACKERS: dict[bytes, Callable[[Path], Any]] = {
    file_formats.GZIP: gzip.GzipFile,
    file_formats.ZSTD: _open_zstd,
}


def unpack(path: Path, target: Path, limits: Limits) -> Path:
    """Unpack a file to `target` and return `target`; return `path` if the file is not packed.

    A zip archive must have a single data file. Raises FileError, LimitError.
    """
    start = file_formats.read_start(path)
    if file_formats.recognise_format(start) == file_formats.ZIP_ARCHIVE:
        unpack_member(path, "", target, limits)
        return target
    unpacker = next(
        (open_packed for sign, open_packed in UNPACKERS.items() if start.startswith(sign)), None
    )
    if unpacker is None:
        return path
    with _explain_damage(), unpacker(path) as file:
        _write(iter(partial(file.read, CHUNK), b""), target, path.stat().st_size, limits)
    return target


def unpack_member(path: Path, member: str, target: Path, limits: Limits) -> None:
    """Write a file of a zip archive to `target`.

    member: the file's path in the archive; empty for the archive's only file.

    Raises FileError, LimitError.
    """
    with _explain_damage("the archive is not a zip file, or is damaged"):
        archive = zipfile.ZipFile(path)
    with archive, _explain_damage():
        info = _find_info(archive, member)
        packed = min(info.compress_size, path.stat().st_size)
        limits.require_size(info.file_size, packed)
        with archive.open(info) as file:
            first = file.read(CHUNK)
            limits.require_size_if_compressed_twice(first, info.file_size, packed)
            _write(chain([first], iter(partial(file.read, CHUNK), b"")), target, packed, limits)


def _write(chunks: Iterator[bytes], target: Path, packed: int, limits: Limits) -> None:
    """Write the chunks, but no more bytes than a file of `packed` bytes may unpack to.

    Raises LimitError.
    """
    size = 0
    with target.open("wb") as output:
        for chunk in chunks:
            size += len(chunk)
            limits.require_size(size, packed)
            output.write(chunk)


@contextmanager
def _explain_damage(problem: str = "it is damaged") -> Iterator[None]:
    """Turn an error of an unpacking library, which may have any type, into a DamagedFileError.

    An unknown method of packing becomes a FileError. FileErrors, and errors of this machine such as
    a full disk, are raised as they are.
    """
    try:
        yield
    except FileError:
        raise
    except NotImplementedError as error:
        raise FileError(f"it cannot be unpacked ({error}): pack it as a plain zip") from error
    except Exception as error:
        # A full disk is not the file's fault. EINVAL is the file's fault: a damaged file can make a
        # library seek to a position before the start of the file.
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise
        reason = " ".join(str(error).split())
        raise DamagedFileError(f"{problem} ({reason}): download or copy it again") from error


def _find_info(archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(member or _find_only_file(archive))
    except KeyError:
        raise FileError(f"there is no such file in it; {_describe_contents(archive)}") from None
    if info.is_dir():
        raise FileError(f"it is a folder of the archive; {_describe_contents(archive)}")
    if info.flag_bits & ENCRYPTED:
        raise FileError("it is encrypted: pack it without a password")
    if info.compress_type not in PLAIN_METHODS:
        raise FileError(f"it is packed by method {info.compress_type}: pack it as a plain zip")
    return info


def _find_only_file(archive: zipfile.ZipFile) -> str:
    """Return the name of the only data file in the archive.

    Raises FileError unless there is exactly one.
    """
    names = _list_data(archive)
    if len(names) != 1:
        raise FileError(
            f"{_describe_contents(archive)}: add !/ and the path of one, such as"
            " ARCHIVE.zip!/orders.csv"
        )
    return names[0]


def _describe_contents(archive: zipfile.ZipFile) -> str:
    names = _list_data(archive)
    if not names:
        return "it is empty"
    more = "" if len(names) <= MEMBERS_SHOWN else f" and {len(names) - MEMBERS_SHOWN} more"
    listed_names = ", ".join(names[:MEMBERS_SHOWN])
    # The names come from an untrusted file, and the message must be one line.
    return (
        "it has "
        + "".join(letter if letter.isprintable() else "?" for letter in listed_names)
        + more
    )


def _list_data(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the data files, or of all files if no name has a data file's suffix."""
    files = [info.filename for info in archive.infolist() if not info.is_dir()]
    files = [name for name in files if not name.startswith("__MACOSX/")]
    data = [name for name in files if PurePosixPath(name).suffix.lower() in DATA_SUFFIXES]
    return data or files
