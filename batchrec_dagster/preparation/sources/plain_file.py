"""A file as the readers of rows want it: plain text or Parquet of its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from batchrec_dagster.preparation.confined.conversions import CONVERSIONS
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.sources import file_formats
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.sources.packing import unpack


class PlainFile(NamedTuple):
    """A file of text, or of Parquet that the child process wrote."""

    path: Path

    unit: str = "line"
    """What a person finds in the file as it came where this one has a line."""

    shift: int = 0
    """What to add to the number of a line in order to find it in the file as it came."""


def make_plain(path: Path, folder: Path, reader: ConfinedReader) -> PlainFile:
    """The file itself if it is text, else what it is unpacked and converted to.

    folder: takes what is unpacked or converted.

    Raises FileError.
    """
    number = len([*folder.iterdir()])
    unpacked = unpack(path, folder / f"{number}.unpacked", Limits.from_environment())
    start = file_formats.read_start(unpacked)
    is_parquet = start.startswith(file_formats.PARQUET)
    form = file_formats.PARQUET_FORMAT if is_parquet else file_formats.recognise_format(start)
    if start.startswith(file_formats.PACKED) or form == file_formats.ZIP_ARCHIVE:
        raise FileError("it is packed twice: unpack it once")
    if form is None:
        return PlainFile(unpacked)
    if form not in CONVERSIONS:
        raise FileError(f"it is {form}, which is not read: write CSV or Parquet")
    converted = folder / f"{number}.converted"
    shift = reader.convert(form, unpacked, converted, packed=path.stat().st_size)
    return PlainFile(converted, CONVERSIONS[form].unit, shift)
