"""Text for a terminal, or for a pipe: whatever the data say, it is shown as text.

Nothing of the data reaches the terminal as it is: what controls a terminal, or turns the order of
what is beside it, is shown by its escape sequence, and markup means nothing.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

# From this width on, history and list fit next to each other.
WIDE = 110
# A table in a pipe is as wide as its cells.
BOUNDLESS = 10_000
BETWEEN = 2

# Control, format, surrogate and private characters, separators of lines and of paragraphs; of
# these a zero-width joiner holds emoji and Persian words together.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Column:
    """`right`: of numbers, which are the last to be cut where there is no room."""

    name: str
    right: bool = False


@dataclass(frozen=True)
class Section:
    """A table with a title above and perhaps a line below."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[object]]
    note: str = ""


def plain(text: str) -> str:
    """The text with all that would not be seen as text written out, such as \\x1b."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _UNSEEN and character not in _JOINERS
        else character
        for character in text
    )


def render(
    heading: Sequence[str], sections: Sequence[Sequence[Section]], *, width: int | None
) -> str:
    """The heading's lines and the sections, those of an inner sequence side by side where there is
    room.

    `width` is that of the terminal, in characters; None is a pipe: no colours, no lines, nothing
    cut off.
    """
    file = io.StringIO()
    console = Console(
        file=file,
        width=width or BOUNDLESS,
        force_terminal=width is not None,
        color_system="auto" if width is not None else None,
        highlight=False,
        legacy_windows=False,
    )
    for line in heading:
        console.print(Text(plain(line), style="bold" if line is heading[0] else ""))
    for row in sections:
        console.print()
        console.print(_row(row, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _row(sections: Sequence[Section], width: int | None) -> RenderableType:
    tables = [_table(section, width is not None) for section in sections]
    if width is None or width < WIDE:
        spaced = [part for table in tables for part in (Text(), table)]
        return Group(*spaced[1:])
    grid = Table.grid(padding=(0, BETWEEN, 0, 0))
    grid.add_row(*tables)
    return grid


def _table(section: Section, lines: bool) -> RenderableType:
    table = Table(
        box=box.SIMPLE_HEAD if lines else None,
        padding=0 if lines else (0, BETWEEN, 0, 0),
        show_edge=False,
        collapse_padding=True,
    )
    for column in section.columns:
        # rich narrows the columns that may wrap, the widest first; _cell cuts instead of wrapping.
        table.add_column(
            _cell(column.name), justify="right" if column.right else "left", no_wrap=column.right
        )
    for row in section.rows:
        table.add_row(*("" if cell is None else _cell(str(cell)) for cell in row))
    parts: list[RenderableType] = [Text(plain(section.title), style="bold")]
    if section.rows:
        parts.append(table)
    if section.note:
        parts.append(Text(plain(section.note), style="dim"))
    return Group(*parts)


def _cell(text: str) -> Text:
    return Text(plain(text), no_wrap=True, overflow="ellipsis")
