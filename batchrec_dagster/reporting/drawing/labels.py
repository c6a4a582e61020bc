"""The labels of a chart: short, distinct, and as wide as they are drawn."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# The width of the longest label, in Latin letters. Wide characters count for two.
LONGEST_LABEL = 22
# About the width of a letter, in pixels of the drawing.
LETTER = 7

# Characters that XML 1.0 cannot represent.
UNWRITABLE = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def make_labels(texts: Iterable[str]) -> list[str]:
    """A label for each text: one line, short, different from the others, and valid in XML."""
    labels: dict[str, None] = {}
    for text in texts:
        short_text = _shorten(" ".join(UNWRITABLE.sub("\ufffd", text).split()))
        label = short_text
        number = 1
        while label in labels:
            number += 1
            label = f"{short_text} ({number})"
        labels[label] = None
    return [*labels]


def measure_widest(labels: Iterable[str]) -> int:
    """About how many pixels the widest label takes."""
    return LETTER * max(map(_count_letters, labels), default=0)


def _shorten(text: str) -> str:
    for length in range(len(text)):
        if _count_letters(text[: length + 1]) > LONGEST_LABEL:
            return text[:length].rstrip() + "…"
    return text


def _count_letters(text: str) -> int:
    """The width of the text, in Latin letters."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
