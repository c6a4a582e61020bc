"""The users whom lists were made for, by how much is known about them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.personalize.formats import USER_FIELD
from batchrec_dagster.reporting.report_counts import ReportCounts
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.storage.edition import NewcomerFacts

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


def describe_newcomers(newcomers: NewcomerFacts | None) -> str | None:
    """What users without interactions get, in a sentence; None if that is the model's choice.

    newcomers: those of an edition; None if nothing is declared for them.
    """
    if newcomers is None:
        return None
    policy = newcomers.get
    if policy == "leave_out":
        return "They get no list."
    if isinstance(policy, dict):
        return f"They get what is popular by {policy['popular_by']}."
    return "They get popular items."
