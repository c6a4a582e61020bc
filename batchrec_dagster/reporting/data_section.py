"""The section of the report about the data: how many rows were read, left out and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec_dagster.reporting.sections import (
    Figure,
    ReportSection,
    format_count,
    format_percent,
)

NAME, TITLE = "data", "Data"


def build_data_section(preparation: Mapping[str, Any], source: str) -> ReportSection:
    """The section.

    preparation: the metadata of the interactions' asset; empty if they are not known.
    source: that of the ratings, without secrets.
    """
    rows = _tabulate_rows(preparation, source)
    if rows is None:
        return ReportSection(NAME, TITLE, ["It is not known how many rows were read."])
    return ReportSection(NAME, TITLE, ["What was read, and what counts of it."], figures=[rows])


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
    )
