"""Sums over groups of users of what they did after each edition: all that intervals need.

A new interaction is a user's with an item that they had not had before the period; where the lists
may contain items that their user has, every item counts once. It is on the list if the user's list
has the item. Popularity's list for a user, of the same length, has the items with most interactions
when the edition was made, without those that the user had then, where the lists leave these out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.steps.arms import MODEL, arms, groups
from batchrec_dagster.steps.outcome_periods import Period
from batchrec_dagster.steps.recommendation_table import position

# Columns of the sums. users: on the edition's lists, or in its control; active: those of them with
# a new interaction; interactions: all in the period; new: new ones; hits: new ones on the list;
# hit_users: users with a hit; recall: the sum of each active user's hits / new; popular_…: the same
# of popularity's lists.
SUMS = {
    "users": pl.Float64(),
    "active": pl.Float64(),
    "interactions": pl.Float64(),
    "new": pl.Float64(),
    "hits": pl.Float64(),
    "hit_users": pl.Float64(),
    "recall": pl.Float64(),
    "popular_hits": pl.Float64(),
    "popular_hit_users": pl.Float64(),
    "popular_recall": pl.Float64(),
}
SCHEMA: dict[str, pl.DataType] = {
    "edition": pl.Int64(),
    "name": pl.String(),
    "experiment": pl.String(),
    "since": pl.String(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "length": pl.Int64(),
    "arm": pl.String(),
    "group": pl.Int32(),
    **SUMS,
}


@dataclass(frozen=True)
class PeriodLists:
    """What a period's users got. rows: user_id, rank, item_id; without: the ids of those requested
    who have no rows; experiment: of the edition, None where all users get the model's lists."""

    rows: pl.LazyFrame
    without: pl.Series
    experiment: Experiment | None
    exclude_seen: bool


class LaterInteractions:
    """The interactions after the oldest period's start, and what its users had before.

    Memory: 16 bytes for each interaction of a user who has one after that start. interactions:
    USER_ID, ITEM_ID, TIMESTAMP (epoch seconds).
    """

    def __init__(self, interactions: pl.LazyFrame, start: int, known_until: Sequence[int]) -> None:
        later = interactions.filter(pl.col(TIMESTAMP) > start)
        self.users = later.select(pl.col(USER_ID).unique()).collect(engine="streaming").to_series()
        counted = (
            interactions.group_by(ITEM_ID)
            .agg((pl.col(TIMESTAMP) <= until).sum().alias(f"{until}") for until in {*known_until})
            .sort(ITEM_ID)
            .collect(engine="streaming")
        )
        self._items = counted.get_column(ITEM_ID)
        self._counts = counted.drop(ITEM_ID).with_row_index("item")
        coded = interactions.select(
            user=position(USER_ID, self.users),
            item=position(ITEM_ID, self._items),
            time=pl.col(TIMESTAMP),
        ).drop_nulls("user")
        self.later, self.first = pl.collect_all(
            [
                coded.filter(pl.col("time") > start),
                coded.group_by("user", "item").agg(first=pl.col("time").min()),
            ],
            engine="streaming",
        )

    def lists(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """user, item (null if nobody had it), rank: the rows of the users who did something."""
        user = position("user_id", self.users)
        item = position("item_id", self._items)
        coded = rows.select(user=user, item=item, rank=pl.col("rank").cast(pl.Int64))
        return coded.drop_nulls("user").collect(engine="streaming")

    def popularity(self, until: int) -> pl.DataFrame:
        """item, place (1 is the most popular by then): the items with an interaction by then."""
        count = pl.col(f"{until}")
        # Ties by the item's id, in whose order the numbers are.
        return (
            self._counts.filter(count > 0)
            .sort(count, "item", descending=[True, False])
            .select("item", place=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
        )


def sums(period: Period, lists: PeriodLists, later: LaterInteractions) -> pl.DataFrame:
    """The period's sums by arm and group, with the columns of SCHEMA."""
    requested = pl.concat(
        [
            lists.rows.filter(pl.col("rank") == 1).select("user_id").collect(engine="streaming"),
            lists.without.alias("user_id").to_frame(),
        ]
    )
    ids = requested.get_column("user_id")
    division = pl.lit(MODEL) if lists.experiment is None else arms(ids, lists.experiment)
    requested = requested.with_columns(arm=division, group=groups(ids))
    rows = later.lists(lists.rows)
    length = int(lists.rows.select(pl.col("rank").max()).collect(engine="streaming").item() or 0)
    users = requested.join(_users(period, lists, later, rows, length), on="user_id", how="left")
    name = f"{lists.experiment.model_dump_json()}" if lists.experiment else ""
    return (
        users.with_columns(users=pl.lit(1.0))
        .group_by("arm", "group")
        .agg(pl.col(column).cast(pl.Float64).fill_null(0).sum() for column in SUMS)
        .with_columns(
            edition=period.edition.number,
            name=pl.lit(period.edition.name),
            experiment=pl.lit(name),
            since=pl.lit(period.since),
            start=period.start,
            end=period.end,
            length=length,
        )
        .select(pl.col(column).cast(kind) for column, kind in SCHEMA.items())
        .sort("arm", "group")
    )


def _users(
    period: Period, lists: PeriodLists, later: LaterInteractions, rows: pl.DataFrame, length: int
) -> pl.DataFrame:
    """user_id and its sums, for users with an interaction in the period."""
    window = later.later.filter(pl.col("time") > period.start, pl.col("time") <= period.end)
    new = window.select("user", "item").unique().join(later.first, on=["user", "item"])
    if lists.exclude_seen:
        new = new.filter(pl.col("first") > period.start)
    own = rows.drop_nulls("item").select("user", "item", on_list=pl.lit(True))
    lengths = rows.group_by("user").agg(length=pl.col("rank").max())
    places = _places_without_seen(period, lists, later, new)
    each = (
        new.join(own, on=["user", "item"], how="left")
        .join(lengths, on="user", how="left")
        .join(places, on=["user", "item"], how="left")
        .with_columns(
            hit=pl.col("on_list").fill_null(value=False),
            # Who got no list is compared with a list of the common length.
            popular=(pl.col("place") <= pl.col("length").fill_null(length)).fill_null(value=False),
        )
        .group_by("user")
        .agg(new=pl.len(), hits=pl.col("hit").sum(), popular_hits=pl.col("popular").sum())
        .with_columns(
            active=1,
            hit_users=pl.col("hits") > 0,
            recall=pl.col("hits") / pl.col("new"),
            popular_hit_users=pl.col("popular_hits") > 0,
            popular_recall=pl.col("popular_hits") / pl.col("new"),
        )
    )
    ids = later.users.alias("user_id").to_frame().with_row_index("user")
    counted = window.group_by("user").agg(interactions=pl.len())
    return counted.join(each, on="user", how="left").join(ids, on="user").drop("user")


def _places_without_seen(
    period: Period, lists: PeriodLists, later: LaterInteractions, new: pl.DataFrame
) -> pl.DataFrame:
    """user, item, place: where each new item stands among the popular ones that its user did not
    have when the edition was made."""
    popular = later.popularity(period.known_until)
    new = new.select("user", "item").join(popular, on="item")
    if not lists.exclude_seen:
        return new
    seen = (
        later.first.filter(pl.col("first") <= period.known_until)
        .join(new.select("user").unique(), on="user", how="semi")
        .join(popular, on="item")
        .select("user", "item", "place", seen=1)
    )
    both = pl.concat([new.with_columns(seen=0), seen]).sort("user", "place")
    before = pl.col("seen").cum_sum().over("user")
    return both.with_columns(pl.col("place") - before).filter(pl.col("seen") == 0).drop("seen")
