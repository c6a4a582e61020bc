"""Files as the readers need them: on this disk, not compressed, in UTF-8."""

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
    """A file of the source on this machine. `name` is its name in messages."""

    path: Path
    name: str


@dataclass(frozen=True)
class OpenedFile:
    """A file that is ready to be read."""

    path: Path
    """The path of a file of plain UTF-8, or of Parquet."""

    name: str
    """The file's name in messages."""

    size: int
    """The size of the file in bytes, after any unpacking and conversion."""

    encoding: str = "utf-8"
    """The encoding of the file as it came."""

    quotes: bool = False
    """Whether there is a `"` in the file."""

    is_plain: bool = False
    """Whether the file is ASCII without any quote, NUL or carriage return.

    The ids in a plain file have no character that is forbidden in ids.
    """

    unit: str = "line"
    """The word for the part of the original file that became one line of this file, such as row."""

    shift: int = 0
    """The number to add to a line's number in order to find the line in the file as it came."""

    def name_line(self, line: int) -> str:
        """Return the place of a line (counted from 1) in the file as it came, such as `line 3`."""
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
    """Return the file ready to be read.

    folder: the folder for unpacked and converted files. It is needed as long as the file is read.
    reader: the reader that converts files that are neither text nor packed text.

    Raises PreparationError if the file cannot be unpacked, is too large, or has a format that is
    not read.
    """
    try:
        opened = _make_plain(file, folder, reader)
        if opened.format == "parquet":
            return opened
        return _decode(opened, encoding, folder)
    except FileError as error:
        raise PreparationError(f"{file.name}: {error}") from error


def _make_plain(file: RawFile, folder: Path, reader: ConfinedReader) -> OpenedFile:
    """Return the file itself if it is text, or else the unpacked or converted file.

    The parameters are described in `open_file`. Raises FileError.
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
    """Return the text file in UTF-8, with its encoding and the flags `quotes` and `is_plain`.

    Raises LimitError if a line is too long, because every reader would hold the line in memory.
    """
    limits = Limits.from_environment()
    # The csv module's own limit on a field is smaller than the limit on a line. Without any limit,
    # a quote that does not end would take the rest of the file into memory.
    csv.field_size_limit(limits.line_bytes)
    size, unfinished = 0, 0
    # The special bytes that were found in the file.
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
    """Yield the content of the file in UTF-8.

    Bytes without a meaning in the encoding become U+FFFD.
    """
    decode = codecs.getincrementaldecoder(encoding)("replace").decode
    for chunk in read_pieces(path):
        yield decode(chunk).encode()
    yield decode(b"", final=True).encode()


def _measure_unfinished_line(chunk: bytes, before: int, most: int) -> int:
    """Return the length so far of the chunk's last line, or of the first line that is too long.

    The function does not look at every line end. It repeatedly looks for the last line end within
    the next `most` bytes.

    before: the number of bytes of the first line that came before the chunk.
    most: the largest number of bytes that a line may have.
    """
    # The start of the line. The first line starts before the chunk.
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
