"""What people did with the lists, by the values of a column of users: estimates of shares.

Unlike the sums of all people, those of the groups of a value may be of one person. So only the
estimates are stored, of the newest period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import polars as pl

from batchrec_dagster.outcomes.arms import MODEL
from batchrec_dagster.outcomes.estimates import estimate_share
from batchrec_dagster.personalize.breakdown import LONGEST_VALUE, MOST_COLUMNS, MOST_VALUES
from batchrec_dagster.personalize.schemas import USER_ID, VALUE_SEPARATOR

# Fewer active people have no interval, as fewer tested users have none.
FEWEST_ACTIVE = 10


@dataclass(frozen=True)
class ValueOutcome:
    """What the people with a value did in the period of an edition."""

    value: str | None
    """None for all values that do not stand alone."""
    users: int
    """How many people had a list of the model."""
    active_users: int
    """How many of them had a new interaction, at least one."""
    hit_rate: float
    """The share of them who chose something from their list."""
    popular_hit_rate: float
    """What it would be if everyone had got the most popular items of that day."""
    interval: tuple[float, float] | None = None
    """The 95% interval of the hit rate; None with too few active people."""
    popular_interval: tuple[float, float] | None = None
    """That of the popular items' hit rate."""


@dataclass(frozen=True)
class ColumnOutcomes:
    """The outcomes by the values of a column; the value of most people comes first."""

    column: str
    values: Sequence[ValueOutcome]


@dataclass(frozen=True)
class OutcomesByValue:
    """The outcomes of a period by columns of users."""

    edition: int
    """The number of the edition."""
    start: int
    """The period's start, in epoch seconds."""
    columns: Sequence[ColumnOutcomes] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """The record of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self | None:
        """What `to_json` returned; None for nothing."""
        if not record:
            return None
        columns = [
            ColumnOutcomes(
                column["column"], [_read_value_outcome(value) for value in column["values"]]
            )
            for column in record["columns"]
        ]
        return cls(record["edition"], record["start"], columns)


def _read_value_outcome(values: Mapping[str, Any]) -> ValueOutcome:
    intervals = {
        name: tuple(values[name]) if values[name] is not None else None
        for name in ("interval", "popular_interval")
    }
    return ValueOutcome(**{**values, **intervals})


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
