"""Markdown for Dagster's UI that shows data as plain text.

Data become no link, image, HTML or formatting. Dagster renders descriptions and Markdown metadata
with remark-gfm. remark-gfm turns web and e-mail addresses into links, but only after it has removed
backslashes, so escaping does not help. An invisible word joiner inside the address prevents the
link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# A longer cell makes a table unreadable.
MAX_LINE_LENGTH = 60
WORD_JOINER = "\u2060"

# The characters that start formatting, HTML, an entity or a cell anywhere in a line. A `_` within a
# word starts nothing.
_SPECIAL = re.compile(r"[\\`*\[\]<|&~]|(?<![^\W_])_|_(?![^\W_])")
# The start of a line that begins a heading, a quotation or a list.
_FIRST = re.compile(r"^([0-9]{1,9}(?=[.)](?: |$))|(?=[#>+=-]))")
_ADDRESS = re.compile(
    r"(?<=http:)(?=//)|(?<=https:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=[-\w]+\.)", re.IGNORECASE
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


def escape(value: object, most: int | None = None) -> str:
    """Return the value as one line of Markdown that shows it as text; empty for None.

    Floats have four significant digits.

    most: the largest number of characters, after which a line is cut; None for no limit.
    """
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    line = " ".join(text.split())
    if most is not None and len(line) > most:
        line = f"{line[: most - 1]}…"
    line = _FIRST.sub(r"\1\\", _SPECIAL.sub(r"\\\g<0>", line))
    return _ADDRESS.sub(WORD_JOINER, line)


def unescape(markdown: str) -> str:
    """Return the line that `escape` turned into this Markdown."""
    return _ESCAPED.sub(r"\1", markdown.replace(WORD_JOINER, ""))


def format_numbered_list(lines: Iterable[object]) -> str:
    """Return the lines as a numbered list in Markdown.

    Lines of more than MAX_LINE_LENGTH characters are cut.
    """
    return "\n".join(
        f"{number}. {escape(line, MAX_LINE_LENGTH)}" for number, line in enumerate(lines, start=1)
    )
