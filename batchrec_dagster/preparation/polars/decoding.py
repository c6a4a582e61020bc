"""A file as the readers want it: on this disk, not compressed, in UTF-8."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from batchrec_dagster.preparation.layout import Encoding, PreparationError
from batchrec_dagster.preparation.sources.archives import HARMLESS_SIZE, MOST_TIMES_LARGER

CHUNK = 1024 * 1024
GZIP, ZSTD, ZIP, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"


@dataclass(frozen=True)
class RawFile:
    """A file of the source on this machine; `name` is what messages call it."""

    path: Path
    name: str


@dataclass(frozen=True)
class Opened:
    """What can be read: `path` holds plain UTF-8 (or Parquet), `name` is what messages call it.

    `encoding` is what the file had. `quotes`: whether there is a `"` in it; `damaged`: bytes that
    are not UTF-8, replaced by U+FFFD; `nul`, `returns`: a NUL, a carriage return.
    """

    path: Path
    name: str
    size: int
    encoding: str = "utf-8"
    quotes: bool = False
    nul: bool = False
    returns: bool = False
    ascii: bool = False
    damaged: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is text without anything in it that an id must not have."""
        return self.ascii and not (self.quotes or self.nul or self.returns)

    @property
    def is_parquet(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(4) == PARQUET


def open_file(file: RawFile, encoding: Encoding, folder: Path) -> Opened:
    """The file ready to be read; what has to be changed for it is kept in `folder` meanwhile.

    Raises PreparationError when it cannot be unpacked, or is in another encoding.
    """
    path = _unpacked(file, folder)
    with path.open("rb") as opened:
        start = opened.read(4)
    size = path.stat().st_size
    if start == PARQUET:
        return Opened(path, file.name, size)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise PreparationError(f"{file.name} is in UTF-16: save it as UTF-8")
    if start == ZIP:
        raise PreparationError(
            f"{file.name} is a zip archive: name a file in it, ARCHIVE.zip!/path/in/it.csv"
        )
    found = _with_bytes(Opened(path, file.name, size))
    if found.ascii:
        return found
    valid, letters = _is_utf8(path)
    if encoding == "latin-1" or (encoding == "auto" and not valid and not letters):
        target = _rewritten(path, folder, "latin-1")
        return replace(found, path=target, encoding="latin-1")
    if valid:
        return found
    target = _rewritten(path, folder, "utf-8")
    return replace(found, path=target, damaged=True)


def _unpacked(file: RawFile, folder: Path) -> Path:
    with file.path.open("rb") as opened:
        start = opened.read(4)
    if start[:2] == GZIP:
        chunks = _gunzipped(file.path)
    elif start == ZSTD:
        chunks = _unzstd(file.path)
    else:
        return file.path
    most = max(HARMLESS_SIZE, MOST_TIMES_LARGER * file.path.stat().st_size)
    try:
        return _written(_at_most(chunks, most, file.name), folder)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PreparationError(f"{file.name} is damaged ({error}): copy it again") from error


def _gunzipped(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        yield from iter(lambda: file.read(CHUNK), b"")


def _unzstd(path: Path) -> Iterator[bytes]:
    with pa.input_stream(str(path), compression="zstd") as file:
        yield from iter(lambda: file.read(CHUNK), b"")


def _at_most(chunks: Iterable[bytes], most: int, name: str) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise PreparationError(
                f"{name} unpacks to more than {MOST_TIMES_LARGER} times its size: if it is real"
                " data, unpack it yourself"
            )
        yield chunk


def _with_bytes(opened: Opened) -> Opened:
    """With what the bytes of the file show, without decoding them."""
    quotes, nul, returns, is_ascii = False, False, False, True
    for chunk in _pieces(opened.path):
        quotes = quotes or b'"' in chunk
        nul = nul or b"\0" in chunk
        returns = returns or b"\r" in chunk
        is_ascii = is_ascii and chunk.isascii()
    return replace(opened, quotes=quotes, nul=nul, returns=returns, ascii=is_ascii)


def _is_utf8(path: Path) -> tuple[bool, bool]:
    """Whether all of it is UTF-8; whether there is any letter beyond ASCII that is."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    valid, letters = True, False
    for chunk in _pieces(path):
        text = decode(chunk)
        if not text.isascii():
            damaged = "\ufffd" in text
            valid = valid and not damaged
            rest = text.replace("\ufffd", "").removeprefix("\ufeff")
            letters = letters or not rest.isascii()
    return valid and not decode(b"", final=True), letters


def _rewritten(path: Path, folder: Path, encoding: str) -> Path:
    decode = codecs.getincrementaldecoder(encoding)("replace").decode

    def chunks() -> Iterator[bytes]:
        for chunk in _pieces(path):
            yield decode(chunk).encode()
        yield decode(b"", final=True).encode()

    return _written(chunks(), folder)


def _written(chunks: Iterable[bytes], folder: Path) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.plain"
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
    return path


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK), b"")
