"""What a section of the report is made of: text, tiles and figures. `page` lays them out.

A part of the product that has something to show makes a `ReportSection`. `Facts.sections` lists
them in the order of the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from markupsafe import Markup

from batchrec_dagster.reporting.charts import Chart, Interval

Judgement = Literal["good", "watch", "bad"]


class Badge(NamedTuple):
    """A word next to a number that says whether it is good."""

    judgement: Judgement
    rule: str
    """What the judgement means here, without a capital and a full stop."""


@dataclass(frozen=True)
class Tile:
    """A number that a section shows large."""

    fact: str
    """The number's name for programs."""
    title: str
    value: Markup
    """The number as `format_count`, `format_percent` or `format_score` returns it."""
    meaning: str
    """What the number means, in a sentence."""
    badge: Badge | None = None
    """Whether the number is good; None if nothing judges it."""


@dataclass(frozen=True)
class Figure:
    """A chart, and the table with its numbers."""

    name: str
    """The beginning of the HTML ids of its parts."""
    title: str
    caption: str
    """What the chart shows, in a sentence."""
    chart: Chart | None
    """None for a table alone."""
    columns: Sequence[str]
    """The headings of the table."""
    rows: Sequence[Sequence[str | Markup]]
    """The formatted cells of the table."""
    is_wide: bool = False
    """Whether it takes the whole width of the page, with its table in view."""
    note: str = ""
    """What else there is to know, which stands with the numbers."""
    fold: str = ""
    """The key number on the line that the figure is folded behind. The figure stands open if this
    is empty: open figures are those that a reader needs to believe the section's conclusion."""
    rows_in_view: int | None = None
    """How many rows of the table stand open; all if this is None. The others are folded."""


@dataclass(frozen=True)
class FigureGroup:
    """Figures behind one line."""

    name: str
    """The beginning of the HTML id of the line."""
    title: str
    key: str
    """The key number on the line."""
    figures: Sequence[Figure]


@dataclass(frozen=True)
class ReportSection:
    """A section of the page."""

    name: str
    """Its anchor in the page's address."""
    title: str
    """Its heading, which the navigation links to."""
    text: Sequence[str] = ()
    """Its paragraphs."""
    tiles: Sequence[Tile] = ()
    figures: Sequence[Figure] = ()

    @property
    def is_quiet(self) -> bool:
        """Whether it has no number to show yet, so that the page gives it a line."""
        return not self.tiles and not self.figures


def format_count(value: float) -> Markup:
    """A number, as text for people and as a value for programs. Whole numbers have no decimals."""
    return _number(value, f"{value:,.0f}" if value == int(value) else f"{value:,.1f}")


def format_percent(value: float) -> Markup:
    """A share as a percentage, as text for people and as a value for programs."""
    return _number(value, f"{value:.1%}")


def format_score(value: float) -> Markup:
    """A metric with four decimals, as text for people and as a value for programs."""
    return _number(value, f"{value:.4f}")


def format_with_interval(
    value: float,
    interval: Interval | None,
    format_number: Callable[[float], Markup] = format_score,
) -> Markup:
    """A number, and below it the ends of its interval if it has one."""
    if interval is None:
        return format_number(value)
    ends = Markup("<small>{} to {}</small>").format(*map(format_number, interval))
    return format_number(value) + ends


def format_amount(value: float) -> Markup:
    """A sum of values whose unit is not known, as text for people and as a value for programs."""
    return _number(value, describe_amount(value))


def describe_amount(value: float) -> str:
    """A sum of values whose unit is not known."""
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _number(value: float, text: str) -> Markup:
    return Markup('<data value="{}">{}</data>').format(value, text)


DAY = re.compile(r"(\d{4}-\d\d-\d\d)")


def mark_days(text: str) -> Markup:
    """The text, with days marked so that they do not wrap at their hyphens."""
    # Every second part is a day.
    parts = DAY.split(text)
    return Markup().join(
        Markup('<span class="day">{}</span>').format(part) if place % 2 else part
        for place, part in enumerate(parts)
    )
