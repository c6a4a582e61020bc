"""A file as the readers want it: on this disk, not compressed, in UTF-8."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.layout import LEGACY, Encoding, Format, PreparationError
from batchrec_dagster.preparation.sources import formats
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import LimitError, Limits
from batchrec_dagster.storage.durable import read_pieces

CHUNK = 1024 * 1024
# Bytes of lines with letters beyond ASCII by which the encoding is judged.
SAMPLED_BYTES = 64 * 1024
# Minimum number of different words before the detector is trusted: of samples of ten film titles
# in cp1252 it takes one in 300 for another encoding, of samples of three one in nine. Minimum
# number of different letters of another script.
ENOUGH_WORDS, LEAST_FOREIGN = 10, 4
WORDS_SHOWN = 3
# On the web these names stand for more than in Python.
_SUPERSETS = {"shift_jis": "cp932", "gbk": "gb18030", "euc-kr": "cp949", "windows-874": "cp874"}


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

    doubt: str | None = None
    """Why the encoding may be another one."""

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
        with self.path.open("rb") as file:
            start = file.read(formats.START)
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

    Raises PreparationError if the file cannot be unpacked, is in another encoding or format, or is
    too large.
    """
    try:
        return _prepare(file, encoding, folder, reader)
    except (LimitError, FileError) as error:
        raise PreparationError(f"{file.name}: {error}") from error


def _prepare(file: RawFile, encoding: Encoding, folder: Path, reader: ConfinedReader) -> OpenedFile:
    opened = _make_plain(file, folder, reader)
    path = opened.path
    start = _read_start(path)
    if start.startswith(formats.PARQUET):
        return opened
    opened = _inspect_bytes(opened, Limits.from_environment())
    if opened.ascii:
        return opened
    if start.startswith(formats.UTF16):
        encoding = "utf-16"
    recoding = _choose_encoding(path, file.name, encoding)
    if recoding is None:
        return opened
    name, doubt = recoding
    plain = _write(_recode(path, name), folder)
    return replace(opened, path=plain, encoding=name, doubt=doubt)


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(formats.START)


def _make_plain(file: RawFile, folder: Path, reader: ConfinedReader) -> OpenedFile:
    """The file as it is if it is text, else as text or Parquet that the child process wrote."""
    size = file.path.stat().st_size
    if formats.is_text(_read_start(file.path)):
        return OpenedFile(file.path, file.name, size)
    paths = {name: str(_choose_path(folder)) + f".{name}" for name in ("unpacked", "converted")}
    arguments = {"path": str(file.path.absolute()), **paths}
    result = reader.run("open_file", arguments, packed=size)
    path = Path(result["path"])
    opened = OpenedFile(path, file.name, path.stat().st_size)
    return replace(opened, unit=result["unit"], shift=result["shift"])


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

    before: how many bytes of the first line came before the chunk.
    most: how many bytes a line may have.
    """
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


def _choose_encoding(path: Path, name: str, declared: Encoding) -> tuple[str, str | None] | None:
    """The encoding to read the file in, and why it may be another; None if all of it is UTF-8.

    declared: the encoding, or `auto`: UTF-8, or LEGACY if there is no letter in UTF-8.

    Raises PreparationError if the words are in another encoding.
    """
    if declared not in ("auto", "utf-8"):
        return declared, None
    valid, letters = _is_utf8(path)
    if valid:
        return None
    doubt = _describe_doubt(path, name) if declared == "auto" else None
    return (LEGACY, doubt) if declared == "auto" and not letters else ("utf-8", None)


def _recode(path: Path, encoding: str) -> Iterator[bytes]:
    """The file in UTF-8; bytes that stand for nothing are U+FFFD."""
    decode = codecs.getincrementaldecoder(encoding)("replace").decode
    for chunk in read_pieces(path):
        yield decode(chunk).encode()
    yield decode(b"", final=True).encode()


def _is_utf8(path: Path) -> tuple[bool, bool]:
    """Whether all of it is UTF-8; whether there is any letter beyond ASCII that is."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    valid, letters = True, False
    for chunk in read_pieces(path):
        text = decode(chunk)
        if not text.isascii():
            damaged = "\ufffd" in text
            valid = valid and not damaged
            valid_text = text.replace("\ufffd", "").removeprefix("\ufeff")
            letters = letters or not valid_text.isascii()
    return valid and not decode(b"", final=True), letters


def _describe_doubt(path: Path, name: str) -> str | None:
    """Why the words may be in another encoding than LEGACY, in which their letters are others.

    Raises PreparationError if they are.
    """
    lines = _read_foreign_lines(path)
    from chardetng_py import EncodingDetector

    detector = EncodingDetector()
    detector.feed(lines, last=True)
    guess = detector.guess(tld=None, allow_utf8=False).lower()
    guess = codecs.lookup(_SUPERSETS.get(guess, guess)).name
    words, others = _list_words(lines, LEGACY), _list_words(lines, guess)
    if words == others:
        return None
    examples = f"{', '.join(words[:WORDS_SHOWN])} and not {', '.join(others[:WORDS_SHOWN])}"
    if len(words) >= ENOUGH_WORDS or _is_other_script(words):
        raise PreparationError(
            f"{name} is neither in UTF-8 nor, it seems, in {LEGACY} (that would be {examples})."
            f" Save it as UTF-8, or set its encoding, such as encoding: {guess}"
        )
    return f"{name}: read as {LEGACY} ({examples}, as {guess} has it). If wrong, set its encoding"


def _list_words(lines: bytes, encoding: str) -> list[str]:
    """The different words that are not ASCII, in the order in which they occur."""
    words = re.findall(r'[^\s,;:|"]+', lines.decode(encoding, "replace"))
    return list(dict.fromkeys(word for word in words if not word.isascii()))


def _is_other_script(words: list[str]) -> bool:
    """Whether most letters of the words, read as LEGACY, are not ASCII, and differ."""
    letters = [letter for letter in "".join(words) if letter.isalpha()]
    foreign = [letter for letter in letters if not letter.isascii()]
    return 2 * len(foreign) > len(letters) and len(set(foreign)) >= LEAST_FOREIGN


def _read_foreign_lines(path: Path) -> bytes:
    """The first lines with bytes that are neither ASCII nor UTF-8; none if most lines are UTF-8."""
    lines, good = b"", 0
    with path.open("rb") as opened:
        for line in (line for line in opened if not line.isascii()):
            try:
                line.decode()
                good += len(line)
            except UnicodeDecodeError:
                lines += line
            if len(lines) + good > SAMPLED_BYTES:
                break
    return lines if len(lines) >= good else b""
