"""A file as the readers want it: on this disk, not compressed, in UTF-8."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from batchrec_dagster.preparation.confined.conversions import CONVERSIONS
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.file_form import LEGACY, Encoding, Format, PreparationError
from batchrec_dagster.preparation.sources import file_formats
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.sources.packing import unpack
from batchrec_dagster.storage.durable import CHUNK, read_pieces


@dataclass(frozen=True)
class RawFile:
    """A file of the source on this machine; `name` is what messages call it."""

    path: Path
    name: str


@dataclass(frozen=True)
class OpenedFile:
    """A file that readers can read."""

    path: Path
    """A file of plain UTF-8, or of Parquet."""

    name: str
    """What messages call the file."""

    size: int
    """The size of the file as it came, or as it was unpacked, in bytes."""

    encoding: str = "utf-8"
    """The encoding of the file as it came."""

    quotes: bool = False
    """Whether there is a `"` in it."""

    is_plain: bool = False
    """Whether it is ASCII without a quote, a NUL or a carriage return, so that ids are sound."""

    unit: str = "line"
    """What a person finds in the file as it came where the result has a line, such as a row."""

    shift: int = 0
    """What to add to the number of a line in order to find it in the file as it came."""

    def name_line(self, line: int) -> str:
        """Where a person finds this line, from 1, in the file as it came."""
        return f"{self.unit} {line + self.shift}"

    @property
    def format(self) -> Format:
        start = file_formats.read_start(self.path)
        if start.startswith(file_formats.PARQUET):
            return "parquet"
        text = start.decode("utf-8-sig", "replace").lstrip()
        return "json" if text.startswith("{") else "csv"


def open_file(
    file: RawFile, encoding: Encoding, folder: Path, reader: ConfinedReader
) -> OpenedFile:
    """The file ready to be read.

    folder: takes what is unpacked or converted, as long as the file is read.
    reader: converts what is neither text nor packed text.

    Raises PreparationError if the file cannot be unpacked, is in another format, or is too large.
    """
    try:
        opened = _make_plain(file, folder, reader)
        if opened.format == "parquet":
            return opened
        return _decode(opened, encoding, folder)
    except FileError as error:
        raise PreparationError(f"{file.name}: {error}") from error


def _make_plain(file: RawFile, folder: Path, reader: ConfinedReader) -> OpenedFile:
    """The file itself if it is text, else what it is unpacked and converted to.

    The parameters are those of `open_file`. Raises FileError.
    """
    number = len([*folder.iterdir()])
    path = unpack(file.path, folder / f"{number}.unpacked", Limits.from_environment())
    start = file_formats.read_start(path)
    is_parquet = start.startswith(file_formats.PARQUET)
    form = file_formats.PARQUET_FORMAT if is_parquet else file_formats.recognise_format(start)
    if start.startswith(file_formats.PACKED) or form == file_formats.ZIP_ARCHIVE:
        raise FileError("it is packed twice: unpack it once")
    if form is None:
        return OpenedFile(path, file.name, path.stat().st_size)
    if form not in CONVERSIONS:
        raise FileError(f"it is {form}, which is not read: write CSV or Parquet")
    converted = folder / f"{number}.converted"
    shift = reader.convert(form, path, converted, packed=file.path.stat().st_size)
    size, unit = converted.stat().st_size, CONVERSIONS[form].unit
    return OpenedFile(converted, file.name, size, unit=unit, shift=shift)


def _decode(opened: OpenedFile, encoding: Encoding, folder: Path) -> OpenedFile:
    """A file of text in UTF-8, with what its bytes show.

    Raises LimitError for a line that is too long, because every reader would hold it in memory.
    """
    limits = Limits.from_environment()
    # Python's own limit is smaller. Without any, a quote that does not end would take the rest of
    # the file into memory.
    csv.field_size_limit(limits.line_bytes)
    size, unfinished = 0, 0
    # The special bytes that are in the file.
    special: set[bytes] = set()
    is_ascii, is_utf8, has_letters = True, True, False
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for chunk in read_pieces(opened.path):
        unfinished = _measure_unfinished_line(chunk, unfinished, limits.line_bytes)
        if unfinished > limits.line_bytes:
            number = _count_lines_before(opened.path, size + len(chunk) - unfinished) + 1
            limits.require_line_length(unfinished, f"line {number}")
        size += len(chunk)
        special.update(byte for byte in (b'"', b"\0", b"\r") if byte in chunk)
        is_ascii = is_ascii and chunk.isascii()
        if not is_ascii:
            text = decoder.decode(chunk)
            is_utf8 = is_utf8 and "\ufffd" not in text
            has_letters = has_letters or not re.sub("[\ufffd\ufeff]", "", text).isascii()
    is_utf8 = is_utf8 and not decoder.decode(b"", final=True)
    opened = replace(opened, quotes=b'"' in special, is_plain=is_ascii and not special)
    if is_ascii:
        return opened
    if file_formats.read_start(opened.path).startswith(file_formats.UTF16):
        encoding = "utf-16"
    elif encoding in ("auto", "utf-8"):
        if is_utf8:
            return opened
        encoding = LEGACY if encoding == "auto" and not has_letters else "utf-8"
    path = folder / f"{len(list(folder.iterdir()))}.plain"
    with path.open("wb") as file:
        file.writelines(_recode(opened.path, encoding))
    return replace(opened, path=path, encoding=encoding)


def _recode(path: Path, encoding: str) -> Iterator[bytes]:
    """The content of the file in UTF-8. Bytes without a meaning in the encoding become U+FFFD."""
    decode = codecs.getincrementaldecoder(encoding)("replace").decode
    for chunk in read_pieces(path):
        yield decode(chunk).encode()
    yield decode(b"", final=True).encode()


def _measure_unfinished_line(chunk: bytes, before: int, most: int) -> int:
    """The length so far of the line in which the chunk ends, or of an earlier one that is too long.

    Not every line end is looked for, only the last one within `most` bytes, again and again.

    before: how many bytes of the first line came before the chunk.
    most: how many bytes a line may have.
    """
    # Where the line starts, which is before the chunk at first.
    start = -before
    while (end := chunk.rfind(b"\n", max(start, 0), max(start + most + 1, 0))) >= 0:
        start = end + 1
    return len(chunk) - start


def _count_lines_before(path: Path, position: int) -> int:
    with path.open("rb") as file:
        return sum(
            file.read(min(CHUNK, position - start)).count(b"\n")
            for start in range(0, position, CHUNK)
        )
