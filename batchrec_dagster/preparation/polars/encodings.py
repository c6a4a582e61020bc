"""The encoding of a text file: UTF-8, the declared one, or one that its words show."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from batchrec_dagster.preparation.layout import LEGACY, Encoding, PreparationError
from batchrec_dagster.storage.durable import read_pieces

# Bytes of lines with letters beyond ASCII by which the encoding is judged.
SAMPLED_BYTES = 64 * 1024
# The detector is trusted if it has seen this many different words. Of samples of ten film titles in
# cp1252 it takes one in 300 for another encoding, but of samples of three titles one in nine.
ENOUGH_WORDS = 10
# Fewer different letters beyond ASCII do not show that the words are in another script.
ENOUGH_FOREIGN_LETTERS = 4
WORDS_SHOWN = 3
# On the web these names stand for more than in Python.
_SUPERSETS = {"shift_jis": "cp932", "gbk": "gb18030", "euc-kr": "cp949", "windows-874": "cp874"}


def choose_encoding(path: Path, name: str, declared: Encoding) -> tuple[str, str | None] | None:
    """The encoding to read the file in, and why it may be another; None if all of it is UTF-8.

    declared: the encoding. `auto` means UTF-8, or LEGACY if no letter beyond ASCII is in UTF-8.

    Raises PreparationError if the words are in another encoding.
    """
    if declared not in ("auto", "utf-8"):
        return declared, None
    valid, letters = _is_utf8(path)
    if valid:
        return None
    doubt = _describe_doubt(path, name) if declared == "auto" else None
    return (LEGACY, doubt) if declared == "auto" and not letters else ("utf-8", None)


def recode(path: Path, encoding: str) -> Iterator[bytes]:
    """The content of the file in UTF-8. Bytes without a meaning in the encoding become U+FFFD."""
    decode = codecs.getincrementaldecoder(encoding)("replace").decode
    for chunk in read_pieces(path):
        yield decode(chunk).encode()
    yield decode(b"", final=True).encode()


def _is_utf8(path: Path) -> tuple[bool, bool]:
    """Whether all of the file is UTF-8, and whether any letter beyond ASCII in it is."""
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
    return 2 * len(foreign) > len(letters) and len(set(foreign)) >= ENOUGH_FOREIGN_LETTERS


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
