"""The section of the report about the data: rows, interactions over time, and what items have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec_dagster.reporting.charts import Chart
from batchrec_dagster.reporting.data_profile import DataProfile
from batchrec_dagster.reporting.sections import (
    Figure,
    ReportSection,
    format_count,
    format_percent,
)

NAME, TITLE = "data", "Data"
# The titles of the axis of the periods, by the length of their labels.
PERIODS = {4: "Year", 7: "Month", 10: "Day"}


def build_data_section(
    profile: DataProfile, items: int, preparation: Mapping[str, Any], source: str
) -> ReportSection:
    """The section.

    items: how many items the catalogue has.
    preparation: the metadata of the interactions' asset; empty if they are not known.
    source: that of the ratings, without secrets.
    """
    text = "What was read, what counts of it, and what is known of the items."
    figures = [
        _draw_periods(profile),
        _draw_items(profile),
        _tabulate_rows(preparation, source),
        _tabulate_attributes(profile, items),
    ]
    return ReportSection(
        NAME, TITLE, [text], figures=[figure for figure in figures if figure is not None]
    )


def _tabulate_rows(preparation: Mapping[str, Any], source: str) -> Figure | None:
    """How many rows were read, left out and kept; None if that is not known."""
    if "rows_read" not in preparation:
        return None
    rows_read = preparation["rows_read"]
    reasons = sorted(
        preparation.get("left_out_by_reason", {}).items(), key=lambda item: (-item[1], item[0])
    )
    rows_kept = rows_read - preparation["rows_left_out"]
    counts = [
        ("Rows read", rows_read),
        *((f"Left out: {reason}", count) for reason, count in reasons if count),
        ("Kept as interactions", rows_kept),
    ]
    return Figure(
        "rows",
        "Rows read and kept",
        f"Of {source}.",
        None,
        ["Rows", "Number", "Share"],
        [
            [label, format_count(count), format_percent(count / max(1, rows_read))]
            for label, count in counts
        ],
        fold=f"{rows_kept / max(1, rows_read):.1%} of {rows_read:,} rows kept",
    )


def _draw_periods(profile: DataProfile) -> Figure | None:
    """The interactions over time; None if they have no times."""
    if not profile.periods:
        return None
    axis_title = PERIODS[len(profile.periods[0][0])]
    # The table has the number of a single period.
    chart = None
    if len(profile.periods) > 1:
        chart = Chart("bars", axis_title, "Interactions", ["Interactions"], profile.periods)
    return Figure(
        "periods",
        "Interactions over time",
        f"By {axis_title.lower()}, in UTC.",
        chart,
        [axis_title, "Interactions"],
        [[label, format_count(number)] for label, number in profile.periods],
        note=f"The first and the last {axis_title.lower()} may not be complete.",
    )


def _draw_items(profile: DataProfile) -> Figure:
    """How many items have how many interactions, up to the largest number that one has."""
    groups = list(profile.items)
    while len(groups) > 1 and not groups[-1][1]:
        groups.pop()
    return Figure(
        "item-lengths",
        "How much is known about each item",
        "Items by their number of interactions.",
        Chart("horizontal bars", "Interactions", "Items", ["Items"], groups),
        ["Interactions", "Items"],
        [[label, format_count(number)] for label, number in groups],
        note="A cold item has no interactions, and is recommended only by what is known of it.",
    )


def _tabulate_attributes(profile: DataProfile, items: int) -> Figure | None:
    """The share of the items with each declared attribute; None if none is declared."""
    if not profile.known:
        return None
    rarest_name, rarest_number = min(profile.known, key=lambda attribute: attribute[1])
    return Figure(
        "attributes",
        "What is known of the items",
        f"How many of {items:,} items have each attribute that is declared.",
        None,
        ["Attribute", "Items", "Share"],
        [
            [name, format_count(number), format_percent(number / max(1, items))]
            for name, number in profile.known
        ],
        fold=f"{rarest_name} of {rarest_number / max(1, items):.1%} of the items",
    )
