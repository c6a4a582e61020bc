"""Tables for a terminal or a pipe, safe for any data.

Characters that control a terminal or reorder the text around them appear as escape sequences.
Markup appears as it is.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

# A terminal of this width has room for two tables side by side.
WIDE = 110
# A table in a pipe is as wide as its cells, so the console has to be wider than any.
BOUNDLESS = 10_000
# The characters between columns, and between tables that are side by side.
BETWEEN = 2

# The Unicode categories of control, format, surrogate and private characters, and of separators of
# lines and paragraphs. Zero-width joiners are kept, because emoji and Persian words need them.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    right: bool = False
    """Whether the cells are aligned right, as numbers are.

    Such columns are the last to be cut when the terminal is narrow.
    """
    wrap: bool = False
    """Whether cells that are too long for a narrow terminal take several lines, instead of being
    cut."""


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


def format_time(time: datetime) -> str:
    """The time to the minute, as `2026-01-31 09:05`."""
    return f"{time:%Y-%m-%d %H:%M}"


def render(
    heading: Sequence[str], sections: Sequence[Sequence[TerminalTable]], *, width: int | None
) -> str:
    """The text of the heading's lines and of the sections.

    A section is a row of tables, which stand side by side if they fit. `width` is the terminal's,
    in characters. It is None for a pipe, whose text has no colours and no lines, and is not cut.
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
        # rich narrows the columns that may wrap, the widest first, so numbers must not be allowed
        # to wrap. Cells of the others do not wrap either, because _make_cell has them cut.
        table.add_column(
            _make_cell(column.name),
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold" if column.wrap else "ellipsis",
        )
    for row in section.rows:
        table.add_row(
            *(
                "" if cell is None else _make_cell(str(cell), wrap=column.wrap)
                for column, cell in zip(section.columns, row, strict=True)
            )
        )
    parts: list[RenderableType] = [Text(escape_invisible(section.title), style="bold")]
    if section.rows:
        parts.append(table)
    if section.note:
        parts.append(Text(escape_invisible(section.note), style="dim"))
    return Group(*parts)


def _make_cell(text: str, *, wrap: bool = False) -> Text:
    if wrap:
        return Text(escape_invisible(text), overflow="fold")
    return Text(escape_invisible(text), no_wrap=True, overflow="ellipsis")
