"""The blocks of a page: tiles, tables with typed cells, and lines over nights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from batchrec_dagster.reporting.insight.numbers import Number


class Fact(NamedTuple):
    """A number that programs find on the page by its name."""

    name: str
    number: Number


class Bar(NamedTuple):
    """A number as a bar with its interval."""

    number: Number
    largest: float
    """The value that a bar of full length would show. It is not 0."""
    is_quiet: bool = False
    """Whether the bar is only there for comparison with another bar."""
    fact: str = ""
    """The number's name for programs; empty if it has none."""


class Title(NamedTuple):
    """A name that batchrec did not choose, such as the title of an item, with a note."""

    text: str
    note: str = ""
    """The text below the name."""


class Judged(NamedTuple):
    """A word with a colour and a shape."""

    level: str
    """`good`, `watch` or `refuse`."""
    word: str


Cell = Number | Fact | Bar | Title | Judged | str | None
"""A cell of a table. Numbers are aligned right; None is an unknown value."""


@dataclass(frozen=True)
class Table:
    """A table."""

    name: str
    """The beginning of the table's HTML id."""
    title: str
    columns: Sequence[str]
    """The headings. The first heading may be empty."""
    rows: Sequence[Sequence[Cell]]
    rows_in_view: int | None = None
    """The number of rows that are always shown; None for all. The other rows are folded."""
    note: str = ""
    """A text below the table on the meaning of the numbers."""
    fold: str = ""
    """The text after the title on the line behind which the table is folded.

    It is empty for a table that is not folded.
    """

    def is_number(self, column: int) -> bool:
        """Return whether the column has only numbers."""
        cells = [row[column] for row in self.rows if row[column] not in (None, "")]
        return bool(cells) and all(isinstance(cell, Number | Fact | Bar) for cell in cells)


@dataclass(frozen=True)
class Tile:
    """A fact with a label, such as a fact in the strip of the first screen."""

    label: str
    value: str | Fact
    note: str = ""
    """The text after the value."""
    of: Fact | None = None
    """The number that the value is a part of."""
    level: str = ""
    """`watch` or `refuse` if somebody should look at the fact; otherwise empty."""


class Line(NamedTuple):
    """A line of a chart."""

    name: str
    points: Sequence[Number | None]
    """A number for each label; None where no number is known."""
    is_connected: bool = True
    """Whether a line connects the points. If not, the points are dots."""


@dataclass(frozen=True)
class Lines:
    """A chart of lines over nights."""

    title: str
    labels: Sequence[str]
    """The labels of the nights, the oldest first."""
    lines: Sequence[Line]
    """The lines of the chart, at most three."""

    @property
    def largest(self) -> float:
        """The largest value in the chart, or upper end of an interval; at least 1e-6."""
        numbers = [number for line in self.lines for number in line.points if number is not None]
        values = [number.value if number.high is None else number.high for number in numbers]
        return max([*values, 1e-6])


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    name: str
    """The section's anchor in the page's address."""
    title: str
    text: Sequence[str] = ()
    """The section's paragraphs."""
    tables: Sequence[Table] = ()
    lines: Lines | None = None
    facts: Sequence[Tile] = field(default=())
    is_wide: bool = False
    """Whether the section takes the whole width of the page."""
