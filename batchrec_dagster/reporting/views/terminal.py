"""The one style of what commands print: verdicts, facts and tables, as good without colours.

A terminal gets colours and lines as wide as it is. A pipe gets one line for each fact and each row,
and nothing is cut. What people and items are called is shown as text, never as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.reporting.insight.verdict import Verdict
from batchrec_dagster.reporting.views.plain import escape_invisible, escape_line, wrap
from batchrec_dagster.storage.edition import Level

# A table in a pipe is as wide as its cells, so the console has to be wider than any.
BOUNDLESS = 10_000
# The characters between two columns.
BETWEEN = 2
# The symbol and the style of each level. The words beside it say the same.
MARKS: Mapping[Level, tuple[str, str]] = {
    "good": ("✓", "bold green"),
    "watch": ("!", "bold yellow"),
    "refuse": ("✗", "bold red"),
}
# What stands in a cell whose value is not known.
NOT_KNOWN = "–"  # noqa: RUF001
# The labels of facts are as wide as the longest of all commands.
LABEL_WIDTH = 12

Cell = Number | Verdict | str | int | None


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    narrow: Literal["cut", "wrap", "keep"] = "cut"
    """What becomes of its cells where the terminal is too narrow for all columns."""
    right: bool = False
    """Whether they are aligned right, as numbers are."""


class Terminal:
    """Prints to a terminal or to a pipe.

    stderr: whether it prints to the standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream: Any = sys.stderr if stderr else sys.stdout
        # A terminal that cannot show a character gets its escape sequence.
        stream.reconfigure(errors="backslashreplace")
        self.console = Console(
            stderr=stderr, highlight=False, markup=False, emoji=False, legacy_windows=False
        )
        self.width = self.console.width if self.console.is_terminal else None
        """The columns of the terminal; None for a pipe."""
        if self.width is None:
            self.console.width = BOUNDLESS

    @property
    def rewrites_lines(self) -> bool:
        """Whether it can show lines that are written over later."""
        return self.width is not None and not self.console.is_dumb_terminal

    def show_waiting(self, text: str) -> AbstractContextManager[object]:
        """A block during which a terminal says what is waited for."""
        if not self.rewrites_lines:
            return nullcontext()
        return self.console.status(escape_line(text))

    def print_line(self, text: str | Text = "", *, cut: bool = False) -> None:
        """Print a line, however long it is, or cut where the terminal ends."""
        if isinstance(text, str):
            text = Text(escape_invisible(text))
        if cut:
            self.console.print(text, no_wrap=True, overflow="ellipsis")
        else:
            self.console.print(text, soft_wrap=True)

    def print_heading(self, text: str) -> None:
        """Print what the lines below are about."""
        self.console.print(Text(escape_invisible(text), style="bold"), overflow="fold")

    def print_sentence(
        self, text: str, *, start: str = "  ", style: str = "dim", hang: int | None = None
    ) -> None:
        """Print a sentence behind `start`, in lines that fit and are indented as far.

        style: that of `start`.
        hang: by how many columns the lines after the first are indented, if not as far.
        """
        hang = len(start) if hang is None else hang
        wrapped = wrap(escape_line(text), self.width, start=start, hang=hang)
        lines = Text(wrapped)
        lines.stylize(style, 0, len(start))
        self.print_line(lines)

    def print_outcome(self, level: Level, text: str) -> None:
        """Print how something ended, with the symbol of the level."""
        symbol, style = MARKS[level]
        self.print_line(Text.assemble((f"{symbol} ", style), (escape_line(text), "bold")))

    def print_finding(self, level: Level, text: str) -> None:
        """Print what was found, with the symbol of the level, in lines that fit."""
        symbol, style = MARKS[level]
        self.print_sentence(text, start=f"{symbol} ", style=style)

    def print_verdict(self, verdict: Verdict) -> None:
        """Print the verdict on lists in a sentence."""
        symbol, style = MARKS[verdict.level]
        text = wrap(escape_line(str(verdict)), self.width, start=f"{symbol} ")
        lines = Text(text)
        lines.stylize(style, 0, len(f"{symbol} {verdict.opening}"))
        self.print_line(lines)

    def print_facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Print facts below each other, each behind its label."""
        for label, text in facts:
            self.print_sentence(text, start=f"  {label:<{LABEL_WIDTH}}")

    def print_table(
        self,
        title: str,
        columns: Sequence[Column | str],
        rows: Sequence[Sequence[Cell]],
        note: str = "",
    ) -> None:
        """Print a table below its title, and a note below the table. Without rows only these.

        Columns that are named by a text have numbers if one of their cells is one.
        """
        if title:
            self.print_heading(title)
        if rows:
            columns_of_cells = zip(columns, zip(*rows, strict=True), strict=True)
            self._print_cells(
                [_describe_column(column, cells) for column, cells in columns_of_cells], rows
            )
        if note:
            self.print_line(Text(wrap(escape_line(note), self.width, hang=0), style="dim"))

    def _print_cells(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        table = Table(
            box=None if self.width is None else box.SIMPLE_HEAD,
            # The lines of a terminal's table are a character wide.
            padding=(0, BETWEEN if self.width is None else BETWEEN - 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for column in columns:
            table.add_column(
                column.name,
                justify="right" if column.right else "left",
                # rich narrows the columns that may wrap, the widest first.
                no_wrap=column.narrow == "keep",
                overflow="fold" if column.narrow == "wrap" else "ellipsis",
            )
        for row in rows:
            table.add_row(
                *(_make_cell(cell, column) for cell, column in zip(row, columns, strict=True))
            )
        with self.console.capture() as captured:
            self.console.print(table)
        for line in captured.get().rstrip("\n").split("\n"):
            self.console.file.write(f"{line.rstrip()}\n")


def _describe_column(column: Column | str, cells: Sequence[Cell]) -> Column:
    if isinstance(column, Column):
        return column
    if any(isinstance(cell, (int, Number)) for cell in cells):
        return Column(column, "keep", right=True)
    return Column(column)


def _format_number(number: Number) -> str:
    """The number with its interval, both as short as a cell has to be."""
    interval = number.interval.replace(" to ", "–")  # noqa: RUF001
    return f"{number.text} ({interval})" if interval else number.text


def _make_cell(cell: Cell, column: Column) -> Text:
    match cell:
        case None:
            text = Text("")
        case Verdict():
            symbol, style = MARKS[cell.level]
            text = Text(f"{symbol} {cell.opening}", style=style)
        case Number():
            text = Text(_format_number(cell))
        case int():
            text = Text(f"{cell:,}")
        case _:
            text = Text(escape_invisible(cell))
    if column.narrow != "wrap":
        text.no_wrap, text.overflow = True, "ellipsis"
    return text
