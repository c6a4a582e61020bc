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
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

# Where history and list fit beside each other.
WIDE = 110
# A table of a pipe is as wide as its cells.
BOUNDLESS = 10_000
BETWEEN = 2
# Where there is no room for all, columns that are not cut, such as ids, get so much; the others at
# least so much.
MOST_KEPT, LEAST_CUT = 20, 5
# What a text that may be cut asks for at most, when the room is shared.
MOST_ASKED = 40

# Control, format, surrogate and private characters, separators of lines and of paragraphs; of
# these a zero-width joiner holds emoji and Persian words together.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Column:
    """`right`: of numbers; `cut`: of texts that may be cut off where there is no room."""

    name: str
    right: bool = False
    cut: bool = False


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
    for beside in sections:
        console.print()
        console.print(_beside(beside, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _beside(sections: Sequence[Section], width: int | None) -> RenderableType:
    if width is None or width < WIDE or len(sections) == 1:
        spaced = [part for section in sections for part in (Text(), _table(section, width))]
        return Group(*spaced[1:])
    grid = Table.grid(padding=(0, BETWEEN, 0, 0))
    room = width - BETWEEN * (len(sections) - 1)
    wanted = [sum(min(each, MOST_ASKED) for each in _widths(one, None)) for one in sections]
    grid.add_row(
        *(
            _table(section, room * own // sum(wanted))
            for section, own in zip(sections, wanted, strict=True)
        )
    )
    return grid


def _table(section: Section, room: int | None) -> RenderableType:
    table = Table(
        box=None if room is None else box.SIMPLE_HEAD,
        padding=(0, BETWEEN, 0, 0) if room is None else 0,
        show_edge=False,
        collapse_padding=True,
    )
    for column, width in zip(section.columns, _widths(section, room), strict=True):
        table.add_column(
            Text(column.name),
            justify="right" if column.right else "left",
            width=width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in _texts(section):
        table.add_row(*map(Text, row))
    parts: list[RenderableType] = [Text(plain(section.title), style="bold")]
    if section.rows:
        parts.append(table)
    if section.note:
        parts.append(Text(plain(section.note), style="dim"))
    return Group(*parts)


def _texts(section: Section) -> list[list[str]]:
    return [["" if cell is None else plain(str(cell)) for cell in row] for row in section.rows]


def _widths(section: Section, room: int | None) -> list[int]:
    """Characters for each column: what its cells need; where that is too much, the columns that
    may be cut share what the others leave."""
    texts = _texts(section)
    needed = [
        max(cell_len(text) for text in (column.name, *(row[place] for row in texts)))
        for place, column in enumerate(section.columns)
    ]
    if room is None or sum(needed) + len(needed) <= room:
        return needed
    kept = [min(width, MOST_KEPT) for width in needed]
    left = room - len(needed)
    flexible = [place for place, column in enumerate(section.columns) if column.cut]
    left -= sum(width for place, width in enumerate(kept) if place not in flexible)
    # A single endless text does not take all the room from the others.
    asked = {place: min(needed[place], MOST_ASKED) for place in flexible}
    for place in flexible:
        share = left * asked[place] // sum(asked.values())
        kept[place] = max(min(share, needed[place]), LEAST_CUT)
    return kept
