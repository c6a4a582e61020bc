"""A search for marked ids in files of any format."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import polars as pl

# A part of each marked id. No other text has it, so a search of all bytes finds only marked ids.
MARK = "zqmark"
# The encodings of texts in files, and in arrays of fixed width.
ENCODINGS = ("latin-1", "utf-16-le", "utf-32-le")


def find_marks(files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Return the names of the files that have the mark in their bytes or values."""
    return [name for name, content in files if any(map(has_mark, read_contents(content)))]


def has_mark(content: bytes) -> bool:
    """Return whether the mark is in the bytes, in any encoding of files and arrays."""
    return any(MARK.encode(encoding) in content for encoding in ENCODINGS)


def read_contents(content: bytes) -> Iterator[bytes]:
    """Yield the bytes of a file, and its unpacked values if it is a gzip or Parquet file."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    if content.startswith(b"PAR1"):
        for column in pl.read_parquet(content):
            yield repr(column.to_list()).encode()


def read_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and bytes of each file in the folder, and the values of SQLite databases."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()
        if path.suffix in (".db", ".sqlite"):
            with closing(sqlite3.connect(path)) as database:
                yield f"values of {path.name}", "\n".join(database.iterdump()).encode()
