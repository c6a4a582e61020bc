"""The users whom lists were made for, by how much is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from batchrec_dagster.outcomes.measured_popularity import MeasuredPopularity, name_window
from batchrec_dagster.personalize.file_formats import USER_FIELD
from batchrec_dagster.reporting.provenance import SMALL_SAMPLE
from batchrec_dagster.reporting.report_counts import ReportCounts
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.reporting.sections import (
    Figure,
    format_count,
    format_percent,
    format_with_interval,
)

# With fewer interactions, a recommender knows little about a user.
FEW = 5


@dataclass(frozen=True)
class Audience:
    """The users whom lists were made for, by how much is known about them."""

    requested: int
    """Users who were to get a list."""
    served: int
    """Users who got one."""
    cold: int
    """Requested users without interactions."""
    few: int
    """Requested users with 1 to 4 interactions."""
    median: float
    """The interactions of the median requested user."""
    heaviest: float = 0.0
    """The share of all interactions that belong to the user with the most."""


def count_audience(tables: RunTables, counts: ReportCounts) -> Audience:
    """The audience of the lists in these tables."""
    lengths = (
        tables.users.select(user_id=pl.col(USER_FIELD).unique())
        .collect(engine="streaming")
        .join(counts.users, on="user_id", how="left")
        .get_column("interactions")
        .fill_null(0)
    )
    return Audience(
        requested=lengths.len(),
        served=counts.served.len(),
        cold=int((lengths == 0).sum()),
        few=int(lengths.is_between(1, FEW - 1).sum()),
        median=float(lengths.median() or 0),  # type: ignore[arg-type]
        heaviest=(
            counts.users.select(pl.col("interactions").max().fill_null(0)).item()
            / max(1, counts.data.interactions)
        ),
    )


def describe_newcomers(
    newcomers: Mapping[str, Any] | None, recent: MeasuredPopularity | None = None
) -> str | None:
    """What users without interactions get, in sentences; None if that is the model's choice.

    newcomers: as an edition's metadata have it.
    recent: what popular items reach, which may have been measured for newcomers.
    """
    if newcomers is None:
        return None
    policy = newcomers["get"]
    if policy == "leave_out":
        return "They get no list."
    gets = "popular items"
    if isinstance(policy, dict):
        gets = f"what is popular by {policy['popular_by']}"
    text = f"They get {gets}."
    if recent is None or recent.newcomer_hit_rate is None:
        text += " Nobody has measured these lists yet."
    return text


def draw_newcomers(recent: MeasuredPopularity | None) -> Figure | None:
    """What popular items reach of the newest users; None if that was not measured."""
    if recent is None or recent.newcomer_hit_rate is None:
        return None
    hit_rate, margin = recent.newcomer_hit_rate, recent.newcomer_margin
    interval = None
    if margin is not None:
        interval = max(0.0, hit_rate - margin), min(1.0, hit_rate + margin)
    cell = format_with_interval(hit_rate, interval, format_percent)
    small = ", a small sample" if recent.newcomers < SMALL_SAMPLE else ""
    return Figure(
        "newcomers",
        "Popular items for newcomers",
        "The newest tenth of the users, as if nothing were known of them: the share who chose one"
        " of the 25 items that were most popular before they came.",
        None,
        ["List", "Newest users", "Hit rate"],
        [[f"Most popular items {name_window(recent.days)}", format_count(recent.newcomers), cell]],
        note="People without a history get popular items. Of what a newcomer chose, the first ten"
        " items count. batchrec measures this itself, from the interactions.",
        fold=f"popular items reach {hit_rate:.1%} of the {recent.newcomers:,} newest users{small}",
    )
