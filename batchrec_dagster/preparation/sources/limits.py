"""What a file is by its first bytes, and what it may unfold to: one budget for downloads, archives,
Parquet and lines.

The settings are environment variables, because they protect the machine and not a pipeline.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

MAX_FILE_GB = "BATCHREC_MAX_FILE_GB"
MAX_LINE_KB = "BATCHREC_MAX_LINE_KB"
QUERY_MEMORY_GB = "BATCHREC_QUERY_MEMORY_GB"
QUERY_MINUTES = "BATCHREC_QUERY_MINUTES"

GB = 10**9
KB = 1000
# Ratings shrink to a fifth or a tenth; what unfolds to far more is not data.
TIMES_LARGER = 200
# The outer layer of what is compressed twice: compressed data hardly shrinks again.
TIMES_LARGER_TWICE = 20
ALWAYS_ALLOWED = 100 * 1000 * 1000
MOST_BY_DEFAULT = 50 * GB
DEFAULT_LINE_KB = 1024
DEFAULT_QUERY_MEMORY_GB, DEFAULT_QUERY_MINUTES = 4, 60
# A cell of Parquet may be a sixteenth of a line: one that stands once can count in a million rows.
CELLS_OF_A_LINE = 16
# The least of a Parquet row: a user, an item and a time of 8 bytes each.
BYTES_OF_A_ROW = 24

GZIP, ZSTD, ZIP, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"


class LimitError(Exception):
    """A file unfolds to more than a limit; the message names the setting, not the file."""


@dataclass(frozen=True)
class Limits:
    """Bytes that one file may unfold to, None for the default that depends on its size; bytes of a
    line of text; bytes of memory and seconds of a query."""

    file_bytes: int | None = None
    line_bytes: int = DEFAULT_LINE_KB * KB
    query_memory: int = DEFAULT_QUERY_MEMORY_GB * GB
    query_seconds: float = DEFAULT_QUERY_MINUTES * 60

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Raises LimitError for a setting that is not a number above 0."""
        environment = os.environ if environment is None else environment
        file = number_above_0(environment, MAX_FILE_GB)
        line = number_above_0(environment, MAX_LINE_KB) or DEFAULT_LINE_KB
        memory = number_above_0(environment, QUERY_MEMORY_GB) or DEFAULT_QUERY_MEMORY_GB
        minutes = number_above_0(environment, QUERY_MINUTES) or DEFAULT_QUERY_MINUTES
        return cls(
            None if file is None else int(file * GB),
            int(line * KB),
            int(memory * GB),
            minutes * 60,
        )

    @property
    def cell_bytes(self) -> int:
        return self.line_bytes // CELLS_OF_A_LINE

    @property
    def download_bytes(self) -> int:
        return self.file_bytes if self.file_bytes is not None else MOST_BY_DEFAULT

    def unfolded_bytes(self, packed: int) -> int:
        """The most that a file of `packed` bytes may unfold to."""
        if self.file_bytes is not None:
            return self.file_bytes
        return min(MOST_BY_DEFAULT, max(ALWAYS_ALLOWED, TIMES_LARGER * packed))

    def check(self, unfolded: int, packed: int) -> None:
        """Raise LimitError where this is too much."""
        if unfolded > (most := self.unfolded_bytes(packed)):
            raise self._too_much(f"{unfolded} bytes from {packed}, more than the {most}")

    def within(self, chunks: Iterable[bytes], packed: int) -> Iterator[bytes]:
        """The same chunks, until they are too much: then LimitError."""
        size, most = 0, self.unfolded_bytes(packed)
        for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise self.stopped(packed)
            yield chunk

    def stopped(self, packed: int) -> LimitError:
        """The error of a file that is unpacked until the limit, and goes on."""
        most = self.unfolded_bytes(packed)
        return self._too_much(f"more than the {most} bytes from {packed}")

    def check_twice(self, start: bytes, unfolded: int, packed: int) -> None:
        """Raise LimitError where the outer layer of what is compressed twice hides how much there
        is; `start` is what the outer one unpacks to."""
        twice = start.startswith((GZIP, ZSTD, ZIP, PARQUET))
        if self.file_bytes is None and twice and unfolded > TIMES_LARGER_TWICE * packed:
            raise self._too_much(
                f"a compressed file, {unfolded} bytes from {packed}, more than what"
            )

    def check_line(self, length: int, place: str) -> None:
        if length > self.line_bytes:
            raise LimitError(
                f"{place} is longer than {self.line_bytes / KB:g} KB: fix the file, or set"
                f" {MAX_LINE_KB} if that is real data"
            )

    def check_parquet(self, rows: int, uncompressed: int, packed: int) -> None:
        """By what the footer says, before a row is read."""
        if max(uncompressed, rows * BYTES_OF_A_ROW) > self.unfolded_bytes(packed):
            raise self._too_much(
                f"{rows} rows ({uncompressed} bytes) from {packed}, more than what"
            )

    def _too_much(self, what: str) -> LimitError:
        return LimitError(
            f"it would unfold to {what} that {MAX_FILE_GB} allows: if it is real data, set it"
            " higher, or unpack the file yourself"
        )


def number_above_0(environment: Mapping[str, str], name: str) -> float | None:
    """The setting, or None where it is not set. Raises LimitError."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise LimitError(f"{name} is {text!r}: set a number above 0")
    return value


BZIP2, XZ, UTF16 = b"BZh", b"\xfd7zXZ\x00", (b"\xff\xfe", b"\xfe\xff")
# Bytes of a file's start that are looked at.
START = 1024
# More control characters than this share are no text, in whatever encoding.
CONTROLS = 0.1

EXCEL, SQLITE, ARROW, JSON_ARRAY = (
    "an Excel file",
    "an SQLite database",
    "a Feather or Arrow file",
    "a JSON array",
)
PACKED = (GZIP, ZSTD, BZIP2, XZ)
# Of Excel and LibreOffice, which pack several files in a zip.
_OF_WORKBOOKS = (b"[Content_Types].xml", b"xl/", b"docProps/", b"_rels/", b"opendocument.spread")
_SIGNS = (
    (b"\xd0\xcf\x11\xe0", EXCEL),
    (b"SQLite format 3\0", SQLITE),
    (b"ARROW1\0\0", ARROW),
    (b"FEA1", "a Feather file of version 1"),
    (b"Obj\x01", "an Avro file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"<stata_dta>", "a Stata file"),
    (b"$FL2", "an SPSS file"),
    (b"%PDF-", "a PDF"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x04\x22\x4d\x18", "a file packed with LZ4"),
    (b"\xff\x06\x00\x00sNaPpY", "a file packed with Snappy"),
    (b"RDX", "an R data file"),
    (b"X\n\0\0", "an R data file"),
)
_PAGES = ((b"<!doctype html", "a web page"), (b"<html", "a web page"), (b"<?xml", "an XML file"))


def format_of(start: bytes) -> str | None:
    """What a file is that starts so, in words; None for text and Parquet, and what is packed.

    start: START bytes, or all of a shorter file.
    """
    if start.startswith((PARQUET, *PACKED, *UTF16)):
        return None
    if start.startswith(ZIP):
        return EXCEL if any(name in start for name in _OF_WORKBOOKS) else "a zip archive"
    if start[257:262] == b"ustar":
        return "a tar archive"
    for sign, name in _SIGNS:
        if start.startswith(sign):
            return name
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return JSON_ARRAY
    for sign, name in _PAGES:
        if text[: len(sign)].lower() == sign:
            return name
    if sum(byte < 32 and byte not in b"\0\t\n\f\r" for byte in start) <= CONTROLS * len(start):
        return None
    if start.startswith(b"ORC"):
        return "an ORC file"
    return "a Python pickle" if start[:1] == b"\x80" else "a binary file"
