"""Estimates what people did with the lists, by the values of columns of users."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.outcomes.arms import MODEL
from batchrec_dagster.outcomes.estimates import estimate_share
from batchrec_dagster.outcomes.outcomes_by_value import ColumnOutcomes, ValueOutcome
from batchrec_dagster.personalize.breakdown import LONGEST_VALUE, MOST_COLUMNS, MOST_VALUES
from batchrec_dagster.personalize.schemas import USER_ID, VALUE_SEPARATOR

# Fewer active people have no interval, as fewer tested users have none.
FEWEST_ACTIVE = 10


def estimate_by_value(
    measured: pl.DataFrame, attributes: pl.DataFrame, columns: Sequence[str]
) -> list[ColumnOutcomes]:
    """The outcomes by the values of these columns, without those that no active person has.

    measured: a row for each person, with user_id, arm, group, active, hit_users and
        popular_hit_users.
    attributes: USER_ID and the columns, in whose cells | separates several values.
    columns: the first MOST_COLUMNS of them count.
    """
    people = measured.filter(pl.col("arm") == MODEL)
    outcomes_by_column = []
    for column in columns[:MOST_COLUMNS]:
        values = _read_values(attributes, column).join(
            people.select("user_id"), on="user_id", how="semi"
        )
        counts = values.group_by("value").len().sort("len", "value", descending=[True, False])
        names = counts.get_column("value").head(MOST_VALUES)
        stands_alone = pl.col("value").is_in(names.implode())
        outcomes = []
        for name in names:
            users = values.filter(pl.col("value") == name).select("user_id")
            outcomes.append(_estimate(name, people.join(users, on="user_id")))
        # A person may have several of the other values, and counts once.
        users = values.filter(~stands_alone).select("user_id").unique()
        outcomes.append(_estimate(None, people.join(users, on="user_id")))
        outcomes_of_active = [outcome for outcome in outcomes if outcome is not None]
        if outcomes_of_active:
            outcomes_by_column.append(ColumnOutcomes(column, outcomes_of_active))
    return outcomes_by_column


def _read_values(attributes: pl.DataFrame, column: str) -> pl.DataFrame:
    """Each user_id with each of its values of the column."""
    return (
        attributes.select(user_id=USER_ID, value=pl.col(column).str.split(VALUE_SEPARATOR))
        .explode("value")
        .with_columns(pl.col("value").str.strip_chars().str.slice(0, LONGEST_VALUE))
        .filter(pl.col("value") != "")
        .unique()
    )


def _estimate(value: str | None, people: pl.DataFrame) -> ValueOutcome | None:
    """The outcome of these people; None if none of them was active."""
    sums = (
        people.group_by("group")
        .agg(pl.col("active", "hit_users", "popular_hit_users").cast(pl.Float64).fill_null(0).sum())
        # Sums of numbers depend on their order in the last digit.
        .sort("group")
    )
    active = float(sums["active"].sum())
    hits = estimate_share(sums["hit_users"], sums["active"], active)
    popular_hits = estimate_share(sums["popular_hit_users"], sums["active"], active)
    if hits is None or popular_hits is None:
        return None
    is_sure = active >= FEWEST_ACTIVE
    return ValueOutcome(
        value,
        users=people.height,
        active_users=int(active),
        hit_rate=hits.value,
        popular_hit_rate=popular_hits.value,
        interval=(hits.low, hits.high) if is_sure else None,
        popular_interval=(popular_hits.low, popular_hits.high) if is_sure else None,
    )
