"""The recognition of a file's format by its first bytes. The name of the file does not count."""

from __future__ import annotations

from pathlib import Path

GZIP, ZSTD, ZIP, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
# The number of bytes at the start of a file that show its format.
START = 1024
# A file with a larger share of control characters is not text in any encoding.
CONTROLS = 0.1

ZIP_ARCHIVE = "a zip archive"
EXCEL, PARQUET_FORMAT, JSON_ARRAY = "an Excel file", "a Parquet file", "a JSON array"
PACKED = (GZIP, ZSTD)
# Names in the zip archives that Excel and LibreOffice write.
_WORKBOOK_PARTS = (b"[Content_Types].xml", b"xl/", b"docProps/", b"_rels/", b"opendocument.spread")
_SIGNS = (
    (b"\xd0\xcf\x11\xe0", EXCEL),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"ARROW1\0\0", "a Feather or Arrow file"),
    (b"FEA1", "a Feather file of version 1"),
    (b"Obj\x01", "an Avro file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"<stata_dta>", "a Stata file"),
    (b"$FL2", "an SPSS file"),
    (b"%PDF-", "a PDF"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "a file packed with bzip2"),
    (b"\xfd7zXZ\x00", "a file packed with xz"),
    (b"\x04\x22\x4d\x18", "a file packed with LZ4"),
    (b"\xff\x06\x00\x00sNaPpY", "a file packed with Snappy"),
    (b"RDX", "an R data file"),
    (b"X\n\0\0", "an R data file"),
)
_PAGES = ((b"<!doctype html", "a web page"), (b"<html", "a web page"), (b"<?xml", "an XML file"))


def read_start(path: Path) -> bytes:
    """Return the first START bytes of the file."""
    with path.open("rb") as file:
        return file.read(START)


def is_text(start: bytes) -> bool:
    """Return whether a file with this start is text.

    Text can be read without unpacking it, and without a library.

    start: the first START bytes, or all bytes of a shorter file.
    """
    return not start.startswith((PARQUET, *PACKED)) and recognise_format(start) is None


def recognise_format(start: bytes) -> str | None:
    """Return the format of a file with this start, in words such as `a zip archive`.

    Returns None for text and for Parquet. Also returns None for files packed with gzip or zstd,
    because these may contain any format.

    start: the first START bytes, or all bytes of a shorter file.
    """
    if start.startswith((PARQUET, *PACKED, *UTF16)):
        return None
    if start.startswith(ZIP):
        return EXCEL if any(name in start for name in _WORKBOOK_PARTS) else ZIP_ARCHIVE
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
