"""A file as the readers want it: on this disk, not compressed, in UTF-8."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from batchrec_dagster.preparation.layout import LEGACY, Encoding, PreparationError
from batchrec_dagster.preparation.sources.limits import (
    GZIP,
    PARQUET,
    ZIP,
    ZSTD,
    LimitError,
    Limits,
)

CHUNK = 1024 * 1024
# Bytes of lines with letters beyond ASCII by which the script is judged; different such letters.
SAMPLED, LEAST_FOREIGN = 64 * 1024, 4
OTHER_SCRIPTS = [
    *("cp1251", "cp1253", "cp1255", "cp1256", "koi8_r"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
]


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

    Raises PreparationError when it cannot be unpacked, is in another encoding, or is too much.
    """
    try:
        return _open(file, encoding, folder, Limits.from_environment())
    except LimitError as error:
        raise PreparationError(f"{file.name}: {error}") from error


def _open(file: RawFile, encoding: Encoding, folder: Path, limits: Limits) -> Opened:
    path = _unpacked(file, folder, limits)
    with path.open("rb") as opened:
        start = opened.read(4)
    size = path.stat().st_size
    if start == PARQUET:
        _check_footer(path, file, limits)
        return Opened(path, file.name, size)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise PreparationError(f"{file.name} is in UTF-16: save it as UTF-8")
    if start == ZIP:
        raise PreparationError(
            f"{file.name} is a zip archive: name a file in it, ARCHIVE.zip!/path/in/it.csv"
        )
    found = _with_bytes(Opened(path, file.name, size), limits)
    if found.ascii:
        return found
    valid, letters = _is_utf8(path)
    if encoding == "auto" and not valid:
        _refuse_other_script(path, file)
        encoding = "utf-8" if letters else LEGACY
    if encoding not in ("auto", "utf-8"):
        return replace(found, path=_rewritten(path, folder, encoding), encoding=encoding)
    if valid:
        return found
    target = _rewritten(path, folder, "utf-8")
    return replace(found, path=target, damaged=True)


def _unpacked(file: RawFile, folder: Path, limits: Limits) -> Path:
    with file.path.open("rb") as opened:
        start = opened.read(4)
    if start[:2] == GZIP:
        chunks = _gunzipped(file.path)
    elif start == ZSTD:
        chunks = _unzstd(file.path)
    else:
        return file.path
    try:
        return _written(limits.within(chunks, file.path.stat().st_size), folder)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PreparationError(f"{file.name} is damaged ({error}): copy it again") from error


def _gunzipped(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as file:
        yield from iter(lambda: file.read(CHUNK), b"")


def _unzstd(path: Path) -> Iterator[bytes]:
    import pyarrow as pa

    with pa.input_stream(str(path), compression="zstd") as file:
        yield from iter(lambda: file.read(CHUNK), b"")


def _check_footer(path: Path, file: RawFile, limits: Limits) -> None:
    """Raise LimitError where so few bytes stand for so many rows that no data look so."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return  # The reader says what is wrong with it.
    groups = map(footer.row_group, range(footer.num_row_groups))
    uncompressed = sum(group.total_byte_size for group in groups)
    limits.check_parquet(footer.num_rows, uncompressed, file.path.stat().st_size)


def _with_bytes(opened: Opened, limits: Limits) -> Opened:
    """With what the bytes of the file show, without decoding them. Raises LimitError for a line
    that is too long, which every reader would hold in memory."""
    quotes, nul, returns, is_ascii = False, False, False, True
    size, unfinished = 0, 0
    for chunk in _pieces(opened.path):
        unfinished = _unfinished_line(chunk, unfinished, limits.line_bytes)
        if unfinished > limits.line_bytes:
            number = _lines_before(opened.path, size + len(chunk) - unfinished) + 1
            limits.check_line(unfinished, f"line {number}")
        size += len(chunk)
        quotes = quotes or b'"' in chunk
        nul = nul or b"\0" in chunk
        returns = returns or b"\r" in chunk
        is_ascii = is_ascii and chunk.isascii()
    return replace(opened, quotes=quotes, nul=nul, returns=returns, ascii=is_ascii)


def _unfinished_line(chunk: bytes, before: int, most: int) -> int:
    """The length so far of the line in which the chunk ends, or of an earlier one of more than
    `most` bytes; `before` of its bytes came before the chunk."""
    start = -before
    while (end := chunk.rfind(b"\n", max(start, 0), max(start + most + 1, 0))) >= 0:
        start = end + 1
    return len(chunk) - start


def _lines_before(path: Path, position: int) -> int:
    with path.open("rb") as file:
        return sum(
            file.read(min(CHUNK, position - at)).count(b"\n") for at in range(0, position, CHUNK)
        )


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


def _refuse_other_script(path: Path, file: RawFile) -> None:
    """Raise PreparationError for words that are hardly Latin: their letters would become others."""
    lines, good = b"", 0
    with path.open("rb") as opened:
        for line in (line for line in opened if not line.isascii()):
            try:
                line.decode()
                good += len(line)
            except UnicodeDecodeError:
                lines += line
            if len(lines) + good > SAMPLED:
                break
    if len(lines) < good:
        return  # UTF-8, with some damage.
    words = re.findall(r"[^\W\d_]+", lines.decode(LEGACY, "replace"))
    letters = "".join(word for word in words if not word.isascii())
    foreign = [letter for letter in letters if not letter.isascii()]
    if 2 * len(foreign) > len(letters) and len(set(foreign)) >= LEAST_FOREIGN:
        from charset_normalizer import from_bytes

        guess = from_bytes(lines, cp_isolation=OTHER_SCRIPTS).best()
        raise PreparationError(
            f"{file.name} is neither in UTF-8 nor in {LEGACY}. Save it as UTF-8, or set its"
            f" encoding, such as encoding: {guess.encoding if guess else OTHER_SCRIPTS[0]}"
        )


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
