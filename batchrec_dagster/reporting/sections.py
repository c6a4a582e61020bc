"""What a section of the report is made of: text, tiles and figures. `page` lays them out.

A part of the product that has something to show makes a `ReportSection`; Facts.sections lists them,
in the order of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from batchrec_dagster.reporting.charts import Chart

Judgement = Literal["good", "watch", "bad"]


@dataclass(frozen=True)
class Tile:
    """A number of a section. fact: its name for programs; value: made by count, percent or score;
    meaning: in a sentence; judgement: whether it is good, if that can be said."""

    fact: str
    title: str
    value: Markup
    meaning: str
    judgement: Judgement | None = None


@dataclass(frozen=True)
class Figure:
    """A chart and the table with its numbers.

    title: of both; caption: the chart in a sentence; chart: None for a table alone; columns, rows:
    of the table, with formatted cells.
    """

    name: str
    title: str
    caption: str
    chart: Chart | None
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]


@dataclass(frozen=True)
class ReportSection:
    """A section of the page. name: its anchor; title: its heading, and its link in the navigation;
    text: paragraphs."""

    name: str
    title: str
    text: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    figures: Sequence[Figure] = ()


def format_count(value: float) -> Markup:
    """A number, as text for people and as a value for programs."""
    return _number(value, f"{value:,.0f}" if value == int(value) else f"{value:,.1f}")


def format_percent(value: float) -> Markup:
    """A share, in percent."""
    return _number(value, f"{value:.1%}")


def format_score(value: float) -> Markup:
    """A metric, to four digits."""
    return _number(value, f"{value:.4f}")


def _number(value: float, text: str) -> Markup:
    return Markup('<data value="{}">{}</data>').format(value, text)
