"""The job of the child process that makes plain text or Parquet of one file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batchrec_dagster.preparation.confined.archive_members import write_member
from batchrec_dagster.preparation.confined.child import ConfinedJob
from batchrec_dagster.preparation.confined.conversions import CONVERSIONS
from batchrec_dagster.preparation.sources import formats
from batchrec_dagster.preparation.sources.errors import DamagedFileError, FileError

CHUNK = 1024 * 1024


def _open_zstd(path: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


_UNPACKERS: dict[bytes, Callable[[Path], Any]] = {
    formats.GZIP: gzip.GzipFile,
    formats.ZSTD: _open_zstd,
}


def open_file(job: ConfinedJob, path: str, unpacked: str, converted: str) -> dict[str, Any]:
    """Unpack the file and convert it, as far as it needs that.

    unpacked, converted: paths of files that it may write. The answer has the `path` of the result,
    and `unit` and `shift`: what a person finds in the file where the result has a line, and how
    many of these come before.
    """
    packed = Path(path).stat().st_size
    plain = _unpack(Path(path), Path(unpacked))
    is_zip = formats.recognise_format(_start(plain)) == formats.ZIP_ARCHIVE
    if is_zip and plain == Path(path):
        write_member(job, path, "", unpacked)
        return _convert(job, Path(unpacked), converted, packed)
    return _convert(job, plain, converted, packed)


def _convert(job: ConfinedJob, plain: Path, converted: str, packed: int) -> dict[str, Any]:
    """The answer of `open_file` for a file that is not packed."""
    form = formats.recognise_format(_start(plain))
    if _start(plain).startswith(formats.PARQUET):
        form = formats.PARQUET_FORMAT
    if form is None:
        return {"path": str(plain), "unit": "line", "shift": 0}
    conversion = CONVERSIONS.get(form)
    if conversion is None:
        raise FileError(f"it is {form}, which is not read: write CSV or Parquet")
    shift = conversion.convert(plain, Path(converted), None, job.limits, packed)
    return {"path": converted, "unit": conversion.unit, "shift": shift}


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(formats.START)


def _unpack(path: Path, target: Path) -> Path:
    """The file itself, or what is packed in it, written to `target`."""
    start = _start(path)
    unpacker = next((opens for sign, opens in _UNPACKERS.items() if start.startswith(sign)), None)
    if unpacker is None:
        return path
    try:
        with unpacker(path) as file, target.open("wb") as output:
            while chunk := file.read(CHUNK):
                output.write(chunk)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFileError(f"it is damaged ({error}): copy it again") from error
    return target
