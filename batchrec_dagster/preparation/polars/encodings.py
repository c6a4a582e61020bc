"""The encoding of a text file that does not say it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chardetng_py import EncodingDetector

from batchrec_dagster.preparation.layout import LEGACY, Encoding, PreparationError

CHUNK = 1024 * 1024
# Bytes of lines with letters beyond ASCII by which the encoding is judged.
SAMPLED = 64 * 1024
# Different words from which on the detector is believed: of samples of ten film titles in cp1252 it
# takes one in 300 for another encoding, of three one in nine. Different letters of another script.
ENOUGH_WORDS, LEAST_FOREIGN = 10, 4
SHOWN = 3
# On the web these names stand for more than in Python.
_SUPERSETS = {"shift_jis": "cp932", "gbk": "gb18030", "euc-kr": "cp949", "windows-874": "cp874"}


@dataclass(frozen=True)
class FoundEncoding:
    """What Python calls it. `damaged`: UTF-8 with bytes in it that are not; `doubt`: why it may be
    another."""

    name: str
    damaged: bool = False
    doubt: str | None = None

    @property
    def is_utf8(self) -> bool:
        return self.name == "utf-8"


def encoding_of(path: Path, name: str, declared: Encoding) -> FoundEncoding:
    """The declared encoding; for `auto` UTF-8, or LEGACY if there is no letter in UTF-8.

    Raises PreparationError for `auto` if the words are in another encoding.
    """
    if declared not in ("auto", "utf-8"):
        return FoundEncoding(declared)
    valid, letters = _is_utf8(path)
    doubt = None
    if declared == "auto" and not valid:
        doubt = _doubt(path, name)
        if not letters:
            return FoundEncoding(LEGACY, doubt=doubt)
    return FoundEncoding("utf-8", damaged=not valid)


def recoded(path: Path, encoding: str) -> Iterator[bytes]:
    """The file in UTF-8; bytes that stand for nothing are U+FFFD."""
    decode = codecs.getincrementaldecoder(encoding)("replace").decode
    for chunk in _pieces(path):
        yield decode(chunk).encode()
    yield decode(b"", final=True).encode()


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


def _doubt(path: Path, name: str) -> str | None:
    """Why the words may be in another encoding than LEGACY, in which their letters are others.

    Raises PreparationError if they are.
    """
    lines = _foreign_lines(path)
    detector = EncodingDetector()
    detector.feed(lines, last=True)
    guess = detector.guess(tld=None, allow_utf8=False).lower()
    guess = codecs.lookup(_SUPERSETS.get(guess, guess)).name
    words, others = _words(lines, LEGACY), _words(lines, guess)
    if words == others:
        return None
    shown = f"{', '.join(words[:SHOWN])} and not {', '.join(others[:SHOWN])}"
    if len(words) >= ENOUGH_WORDS or _is_other_script(words):
        raise PreparationError(
            f"{name} is neither in UTF-8 nor, it seems, in {LEGACY} (that would be {shown}). Save"
            f" it as UTF-8, or set its encoding, such as encoding: {guess}"
        )
    return f"{name}: read as {LEGACY} ({shown}, as {guess} has it). If wrong, set its encoding"


def _words(lines: bytes, encoding: str) -> list[str]:
    """The different words beyond ASCII, in the order of their first places."""
    words = re.findall(r'[^\s,;:|"]+', lines.decode(encoding, "replace"))
    return list(dict.fromkeys(word for word in words if not word.isascii()))


def _is_other_script(words: list[str]) -> bool:
    """Whether they are hardly Latin, read as LEGACY."""
    letters = [letter for letter in "".join(words) if letter.isalpha()]
    foreign = [letter for letter in letters if not letter.isascii()]
    return 2 * len(foreign) > len(letters) and len(set(foreign)) >= LEAST_FOREIGN


def _foreign_lines(path: Path) -> bytes:
    """The first lines with bytes beyond ASCII that are no UTF-8; none where most such lines are."""
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
    return lines if len(lines) >= good else b""


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK), b"")
