"""Labels of charts: whatever the data say, it can be drawn."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# So many Latin letters, or half as many of those that are twice as wide.
ROOM = 22

# What XML 1.0 has no way to write: vl-convert ends the process when it meets one.
UNWRITABLE = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def readable(texts: Iterable[str]) -> dict[str, str]:
    """Each text as a label: writable, of one line, short, and told apart from the others.

    Vega would cut long ones too, but between the halves of an emoji, and fail.
    """
    labels: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        label = cut = _cut(" ".join(UNWRITABLE.sub("\ufffd", text).split()))
        number = 1
        while label in labels.values():
            number += 1
            label = f"{cut} ({number})"
        labels[text] = label
    return labels


def _cut(text: str) -> str:
    room = ROOM
    for place, character in enumerate(text):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return text[:place].rstrip() + "…"
    return text
