"""What a page is made of: tiles, tables with typed cells, and lines over nights."""

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
    """The value at the end of the longest bar beside it, which is not 0."""
    is_quiet: bool = False
    """Whether it is what something else is compared with."""
    fact: str = ""
    """The number's name for programs; empty if it has none."""


class Title(NamedTuple):
    """A name that somebody else chose, such as that of an item, with what belongs to it."""

    text: str
    note: str = ""
    """What stands below it."""


class Judged(NamedTuple):
    """A word with a colour and a shape."""

    level: str
    """`good`, `watch` or `refuse`."""
    word: str


Cell = Number | Fact | Bar | Title | Judged | str | None
"""A cell of a table. Numbers are aligned right, and an unknown one is None."""


@dataclass(frozen=True)
class Table:
    """A table."""

    name: str
    """The beginning of its HTML id."""
    title: str
    columns: Sequence[str]
    """The headings. That of the first column may be empty."""
    rows: Sequence[Sequence[Cell]]
    rows_in_view: int | None = None
    """How many rows stand open; all if this is None. The others are folded."""
    note: str = ""
    """What to know about the numbers, below the table."""
    fold: str = ""
    """What stands behind the title on the line that the table is folded behind; empty if it
    stands open."""

    def is_number(self, column: int) -> bool:
        """Whether the column has numbers."""
        cells = [row[column] for row in self.rows if row[column] not in (None, "")]
        return bool(cells) and all(isinstance(cell, Number | Fact | Bar) for cell in cells)


@dataclass(frozen=True)
class Tile:
    """A fact in the strip."""

    label: str
    value: str | Fact
    note: str = ""
    """What stands behind it."""
    of: Fact | None = None
    """The number that it is a part of."""
    level: str = ""
    """`watch` or `refuse` if somebody should look at it."""


class Line(NamedTuple):
    """A line of a chart."""

    name: str
    points: Sequence[Number | None]
    """A number for each label; None where there is none."""
    is_connected: bool = True
    """If not, the points are dots."""


@dataclass(frozen=True)
class Lines:
    """Lines over nights."""

    title: str
    labels: Sequence[str]
    """Of the nights, the oldest first."""
    lines: Sequence[Line]
    """At most three."""

    @property
    def largest(self) -> float:
        """The largest value or end of an interval, which is not 0."""
        numbers = [number for line in self.lines for number in line.points if number is not None]
        values = [number.value if number.high is None else number.high for number in numbers]
        return max([*values, 1e-6])


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    name: str
    """Its anchor in the page's address."""
    title: str
    text: Sequence[str] = ()
    """Its paragraphs."""
    tables: Sequence[Table] = ()
    lines: Lines | None = None
    facts: Sequence[Tile] = field(default=())
    is_wide: bool = False
    """Whether it takes the whole width of a page."""
