"""The common style of command output: verdicts, facts and tables, readable without colours.

A terminal gets colours, and lines as wide as the terminal. A pipe gets one line for each fact and
each row, and nothing is cut. Names of people and items are shown as text, never as markup.
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

from batchrec_dagster.editions.edition import Level
from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.reporting.insight.verdict import Verdict
from batchrec_dagster.reporting.views.plain import escape_invisible, escape_line, wrap

# A table in a pipe is as wide as its cells, so the console has to be wider than any table.
BOUNDLESS = 10_000
# The number of spaces between two columns.
BETWEEN = 2
# The symbol and the style of each level. The words beside a symbol say the same.
MARKS: Mapping[Level, tuple[str, str]] = {
    "good": ("✓", "bold green"),
    "watch": ("!", "bold yellow"),
    "refuse": ("✗", "bold red"),
}
# The text of a cell with an unknown value.
NOT_KNOWN = "–"  # noqa: RUF001
# The width of a fact's label: the longest label of all commands.
LABEL_WIDTH = 12

Cell = Number | Verdict | str | int | None


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    narrow: Literal["cut", "wrap", "keep"] = "cut"
    """The way to shorten the cells if the terminal is too narrow for all columns."""
    right: bool = False
    """Whether the cells are aligned right, as numbers are."""


class Terminal:
    """A terminal or a pipe to print to.

    stderr: whether to print to the standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream: Any = sys.stderr if stderr else sys.stdout
        # A terminal that cannot show a character gets its escape sequence.
        stream.reconfigure(errors="backslashreplace")
        self.console = Console(
            stderr=stderr, highlight=False, markup=False, emoji=False, legacy_windows=False
        )
        self.width = self.console.width if self.console.is_terminal else None
        """The width of the terminal in columns; None for a pipe."""
        if self.width is None:
            self.console.width = BOUNDLESS

    @property
    def rewrites_lines(self) -> bool:
        """Whether the terminal can overwrite lines that it has shown."""
        return self.width is not None and not self.console.is_dumb_terminal

    def show_waiting(self, text: str) -> AbstractContextManager[object]:
        """Return a block during which a terminal says what the command waits for."""
        if not self.rewrites_lines:
            return nullcontext()
        return self.console.status(escape_line(text))

    def print_line(self, text: str | Text = "", *, cut: bool = False) -> None:
        """Print a line; `cut` shortens it to the width of the terminal."""
        if isinstance(text, str):
            text = Text(escape_invisible(text))
        if cut:
            self.console.print(text, no_wrap=True, overflow="ellipsis")
        else:
            self.console.print(text, soft_wrap=True)

    def print_heading(self, text: str) -> None:
        """Print a heading for the lines below."""
        self.console.print(Text(escape_invisible(text), style="bold"), overflow="fold")

    def print_sentence(
        self, text: str, *, start: str = "  ", style: str = "dim", hang: int | None = None
    ) -> None:
        """Print a sentence after `start`, in lines that fit, indented to the width of `start`.

        style: the style of `start`.
        hang: the indentation in columns of the lines after the first, if it is not the width of
            `start`.
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
        """Print a finding, with the symbol of the level, in lines that fit."""
        symbol, style = MARKS[level]
        self.print_sentence(text, start=f"{symbol} ", style=style)

    def print_verdict(self, verdict: Verdict) -> None:
        """Print the verdict on lists as a sentence."""
        symbol, style = MARKS[verdict.level]
        text = wrap(escape_line(str(verdict)), self.width, start=f"{symbol} ")
        lines = Text(text)
        lines.stylize(style, 0, len(f"{symbol} {verdict.opening}"))
        self.print_line(lines)

    def print_facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Print facts below each other, each after its label."""
        for label, text in facts:
            self.print_sentence(text, start=f"  {label:<{LABEL_WIDTH}}")

    def print_table(
        self,
        title: str,
        columns: Sequence[Column | str],
        rows: Sequence[Sequence[Cell]],
        note: str = "",
    ) -> None:
        """Print a table with its title above and a note below.

        Without rows, only the title and the note are printed. A column given by its name is a
        column of numbers if one of its cells is a number.
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
            # The table's style for a terminal puts one more character between columns.
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
    """Return the number with its interval, shortened for a cell."""
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
