"""Tables for a terminal or a pipe, safe for any data.

Characters that control a terminal or reorder the text around them are shown as escape sequences;
markup is shown as it is.
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

# From this width, two sections fit side by side.
WIDE = 110
# A table in a pipe is as wide as its cells.
BOUNDLESS = 10_000
BETWEEN = 2

# Control, format, surrogate and private characters, line and paragraph separators; but zero-width
# joiners, which emoji and Persian words need, are kept.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Column:
    """right: aligned right, for numbers; cut last when the terminal is narrow."""

    name: str
    right: bool = False


@dataclass(frozen=True)
class TerminalTable:
    """A table with a title above and an optional note below."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[object]]
    note: str = ""


def escape_invisible(text: str) -> str:
    """The text with invisible characters written as escape sequences, such as \\x1b."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _INVISIBLE and character not in _JOINERS
        else character
        for character in text
    )


def render(
    heading: Sequence[str], sections: Sequence[Sequence[TerminalTable]], *, width: int | None
) -> str:
    """The heading's lines and the sections, those of an inner sequence side by side if they fit.

    width: of the terminal in characters; None for a pipe: no colours, no lines, nothing cut.
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
        console.print(Text(escape_invisible(line), style="bold" if line is heading[0] else ""))
    for row in sections:
        console.print()
        console.print(_arrange(row, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _arrange(sections: Sequence[TerminalTable], width: int | None) -> RenderableType:
    tables = [_build_table(section, width is not None) for section in sections]
    if width is None or width < WIDE:
        spaced = [part for table in tables for part in (Text(), table)]
        return Group(*spaced[1:])
    grid = Table.grid(padding=(0, BETWEEN, 0, 0))
    grid.add_row(*tables)
    return grid


def _build_table(section: TerminalTable, lines: bool) -> RenderableType:
    table = Table(
        box=box.SIMPLE_HEAD if lines else None,
        padding=0 if lines else (0, BETWEEN, 0, 0),
        show_edge=False,
        collapse_padding=True,
    )
    for column in section.columns:
        # rich narrows the columns that may wrap, the widest first; _cell cuts instead of wrapping.
        table.add_column(
            _make_cell(column.name),
            justify="right" if column.right else "left",
            no_wrap=column.right,
        )
    for row in section.rows:
        table.add_row(*("" if cell is None else _make_cell(str(cell)) for cell in row))
    parts: list[RenderableType] = [Text(escape_invisible(section.title), style="bold")]
    if section.rows:
        parts.append(table)
    if section.note:
        parts.append(Text(escape_invisible(section.note), style="dim"))
    return Group(*parts)


def _make_cell(text: str) -> Text:
    return Text(escape_invisible(text), no_wrap=True, overflow="ellipsis")
