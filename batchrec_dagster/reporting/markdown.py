"""Markdown for Dagster's UI, in which data are text: no link, image, HTML or formatting.

Dagster renders descriptions and Markdown metadata with remark-gfm, which turns web and e-mail
addresses into links after it has removed backslashes. A word joiner, which is invisible, keeps it
from seeing them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# A longer cell makes a table unreadable.
CELL = 60
WORD_JOINER = "\u2060"

# What starts formatting, HTML, an entity or a cell anywhere in a line; `_` within a word does not.
_SPECIAL = re.compile(r"[\\`*\[\]<|&~]|(?<![^\W_])_|_(?![^\W_])")
# What starts a heading, a quotation or a list at the start of a line.
_FIRST = re.compile(r"^([0-9]{1,9}(?=[.)](?: |$))|(?=[#>+=-]))")
_ADDRESS = re.compile(
    r"(?<=http:)(?=//)|(?<=https:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=[-\w]+\.)", re.IGNORECASE
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


def escape(value: object, most: int | None = None) -> str:
    """The value as Markdown that shows it as text, in one line of at most so many characters."""
    if value is None:
        return ""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    line = " ".join(shown.split())
    if most is not None and len(line) > most:
        line = f"{line[: most - 1]}…"
    line = _FIRST.sub(r"\1\\", _SPECIAL.sub(r"\\\g<0>", line))
    return _ADDRESS.sub(WORD_JOINER, line)


def unescape(markdown: str) -> str:
    """The line that was escaped."""
    return _ESCAPED.sub(r"\1", markdown.replace(WORD_JOINER, ""))


def format_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of the rows."""
    lines = [columns, *rows]
    head, *body = (f"| {' | '.join(escape(cell, CELL) for cell in line)} |" for line in lines)
    return "\n".join([head, f"|{' --- |' * len(columns)}", *body])


def format_code_block(lines: str) -> str:
    """A code block that nothing in the text can end."""
    longest = max((len(run) for run in re.findall("`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{lines}\n{fence}"
