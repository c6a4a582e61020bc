"""A file as the readers want it: on this disk, not compressed, in UTF-8."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.layout import Encoding, Format, PreparationError
from batchrec_dagster.preparation.polars.encodings import choose_encoding, recode
from batchrec_dagster.preparation.sources import formats
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.sources.opening import make_plain
from batchrec_dagster.storage.durable import read_pieces

CHUNK = 1024 * 1024


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

    nul: bool = False
    """Whether there is a NUL in it."""

    returns: bool = False
    """Whether there is a carriage return in it."""

    ascii: bool = False
    """Whether all of it is ASCII."""

    unit: str = "line"
    """What a person finds in the file as it came where the result has a line, such as a row."""

    shift: int = 0
    """What to add to the number of a line in order to find it in the file as it came."""

    def place(self, line: int) -> str:
        """Where a person finds this line, from 1, in the file as it came."""
        return f"{self.unit} {line + self.shift}"

    @property
    def is_plain(self) -> bool:
        """Whether it is text without anything in it that an id must not have."""
        return self.ascii and not (self.quotes or self.nul or self.returns)

    @property
    def format(self) -> Format:
        start = formats.read_start(self.path)
        if start.startswith(formats.PARQUET):
            return "parquet"
        text = start.decode("utf-8-sig", "replace").lstrip()
        return "json" if text.startswith("{") else "csv"


def open_file(
    file: RawFile, encoding: Encoding, folder: Path, reader: ConfinedReader
) -> OpenedFile:
    """The file ready to be read.

    folder: takes what is unpacked or converted, as long as the file is read.
    reader: unpacks and converts what is not plain text.

    Raises PreparationError if the file cannot be unpacked, is in another format, or is too large.
    """
    try:
        return _prepare(file, encoding, folder, reader)
    except FileError as error:
        raise PreparationError(f"{file.name}: {error}") from error


def _prepare(file: RawFile, encoding: Encoding, folder: Path, reader: ConfinedReader) -> OpenedFile:
    opened = _make_plain(file, folder, reader)
    path = opened.path
    start = formats.read_start(path)
    if start.startswith(formats.PARQUET):
        return opened
    opened = _inspect_bytes(opened, Limits.from_environment())
    if opened.ascii:
        return opened
    if start.startswith(formats.UTF16):
        encoding = "utf-16"
    chosen = choose_encoding(path, encoding)
    if chosen is None:
        return opened
    return replace(opened, path=_write(recode(path, chosen), folder), encoding=chosen)


def _make_plain(file: RawFile, folder: Path, reader: ConfinedReader) -> OpenedFile:
    """The file as it is if it is text, else as text or Parquet that was made of it."""
    plain = make_plain(file.path, folder, reader)
    size = plain.path.stat().st_size
    return OpenedFile(plain.path, file.name, size, unit=plain.unit, shift=plain.shift)


def _inspect_bytes(opened: OpenedFile, limits: Limits) -> OpenedFile:
    """The file with what its bytes show before they are decoded.

    Raises LimitError for a line that is too long, because every reader would hold it in memory.
    """
    quotes, nul, returns, is_ascii = False, False, False, True
    size, unfinished = 0, 0
    for chunk in read_pieces(opened.path):
        unfinished = _measure_unfinished_line(chunk, unfinished, limits.line_bytes)
        if unfinished > limits.line_bytes:
            number = _count_lines_before(opened.path, size + len(chunk) - unfinished) + 1
            limits.check_line(unfinished, f"line {number}")
        size += len(chunk)
        quotes = quotes or b'"' in chunk
        nul = nul or b"\0" in chunk
        returns = returns or b"\r" in chunk
        is_ascii = is_ascii and chunk.isascii()
    return replace(opened, quotes=quotes, nul=nul, returns=returns, ascii=is_ascii)


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


def _choose_path(folder: Path) -> Path:
    return folder / f"{len(list(folder.iterdir()))}.plain"


def _write(chunks: Iterable[bytes], folder: Path) -> Path:
    path = _choose_path(folder)
    with path.open("wb") as file:
        file.writelines(chunks)
    return path
