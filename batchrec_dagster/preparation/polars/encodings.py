"""The encoding of a text file: the declared one, or UTF-8, or else LEGACY."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from batchrec_dagster.preparation.layout import LEGACY, Encoding
from batchrec_dagster.storage.durable import read_pieces


def choose_encoding(path: Path, declared: Encoding) -> str | None:
    """The encoding to read the file in; None if all of it is UTF-8.

    declared: the encoding. `auto` means UTF-8, or LEGACY if no letter beyond ASCII is in UTF-8.
    """
    if declared not in ("auto", "utf-8"):
        return declared
    valid, letters = _is_utf8(path)
    if valid:
        return None
    return LEGACY if declared == "auto" and not letters else "utf-8"


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
