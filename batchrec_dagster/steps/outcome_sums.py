"""Sums, over groups of users, of what they did in a period: how many interactions and hits.

A new interaction of a user is one with an item that they did not have before the period. If the
lists may contain items that their user has, every item of the period counts once. A new interaction
is a hit if the user's list has the item.

The lists are compared with popularity's: for each user a list of the same length, of the items that
had most interactions when the edition was made. If the lists leave out what the user had then,
popularity's list does so too.

With events of success, only these count: a purchase of an item on the list is a hit, and a click is
none. But what a user had before, by any event, is not new, because lists leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.outcomes.arms import MODEL, UserGroups, assign_arms
from batchrec_dagster.outcomes.periods import Period
from batchrec_dagster.outcomes.sums import SUMS, VALUES, complete_sums, format_events
from batchrec_dagster.personalize.schemas import (
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.steps.numbered_ids import Numbers, find_positions
from batchrec_dagster.steps.pairs import Pairs
from batchrec_dagster.steps.success import is_success


@dataclass(frozen=True)
class PeriodLists:
    """The lists that users had in a period."""

    rows: pl.LazyFrame
    """The columns user_id, rank and item_id."""
    users_without: pl.Series
    """The ids of the requested users who have no rows."""
    experiment: Experiment | None
    """The edition's experiment; None if all users have the model's lists."""
    exclude_seen: bool
    """Whether the lists leave out the items that their user had when the edition was made."""


# The place of items without interactions, which no list reaches.
FAR = 2**60
# Users and items as numbers: their indices in `LaterInteractions.users` and `.items`.
CODES = {"user": pl.UInt32, "item": pl.UInt32}
# An item, and its place in the ranking by popularity, from 1.
PLACED = {"item": pl.UInt32, "place": pl.Int64}


class LaterInteractions:
    """The interactions after a time, and the items that their users had by then.

    In memory these items take 8 bytes for each user and item, and 16 while they are read.

    interactions: the columns USER_ID, ITEM_ID and TIMESTAMP, in epoch seconds, and EVENT_TYPE and
        EVENT_VALUE if there are events of success.
    since: the time, which is the earliest start or known_until of a period.
    known_until: that of each period.
    success: the types of events that count as success; all if empty.
    """

    def __init__(
        self,
        interactions: pl.LazyFrame,
        since: int,
        known_until: Sequence[int],
        success: Sequence[str] = (),
    ) -> None:
        later = pl.col(TIMESTAMP) > since
        counts = [(pl.col(TIMESTAMP) <= until).sum().alias(f"{until}") for until in {*known_until}]
        users, item_counts = pl.collect_all(
            [
                interactions.filter(later).select(user_id=pl.col(USER_ID).unique()),
                interactions.group_by(ITEM_ID).agg(counts),
            ],
            engine="streaming",
        )
        # Items are numbered in the order of their ids, which decides between equally popular ones.
        item_counts = item_counts.sort(ITEM_ID)
        self.users = users.get_column("user_id")
        self.items = item_counts.get_column(ITEM_ID)
        self._counts = item_counts
        self.success = format_events(success)
        columns = interactions.collect_schema()
        event_columns = {}
        if success:
            event_columns["is_success"] = is_success(interactions, success)
            if EVENT_VALUE in columns:
                event_columns["value"] = pl.col(EVENT_VALUE).cast(pl.Float64)
        self.has_values = "value" in event_columns
        numbered = interactions.select(
            user=find_positions(USER_ID, self.users).cast(pl.UInt32),
            item=find_positions(ITEM_ID, self.items).cast(pl.UInt32),
            time=pl.col(TIMESTAMP),
            **event_columns,
        ).drop_nulls("user")
        self.interactions = numbered.filter(pl.col("time") > since).collect(engine="streaming")
        # The users and items of the interactions until `since`.
        self._past = Pairs.read(numbered.filter(pl.col("time") <= since))
        self._item_counts_of_users = np.bincount(self._past.users, minlength=len(self.users))

    def find_counted(self, period: Period) -> pl.DataFrame:
        """The interactions of the period that count: those of success."""
        time = pl.col("time")
        in_period = self.interactions.filter(time > period.start, time <= period.end)
        return in_period.filter("is_success") if self.success else in_period

    def find_chosen_items(self, period: Period, *, new: bool) -> pl.DataFrame:
        """The users and the items that they interacted with in the period, each pair once.

        The columns are user and item.

        new: whether to leave out the items that the user had before the period.
        """
        pairs = self.find_counted(period).select("user", "item").unique()
        if not new or not pairs.height:
            return pairs
        before = (
            self.interactions.filter(pl.col("time") <= period.start).select("user", "item").unique()
        )
        pairs = pairs.join(before, on=["user", "item"], how="anti")
        return pairs.filter(~self._past.contain(pairs))

    def find_popular_hits(
        self, period: Period, chosen: pl.DataFrame, *, exclude_seen: bool
    ) -> pl.DataFrame:
        """The chosen items that are on popularity's list for their user.

        The columns of the result are user and item.

        chosen: the items that users interacted with, in the columns user, item, and length: the
        length of the user's list.
        """
        place = self._rank_by_popularity(period.known_until)
        candidates = chosen.with_columns(place=pl.Series(place[chosen["item"].to_numpy()]))
        if not exclude_seen:
            return candidates.filter(pl.col("place") <= pl.col("length")).select("user", "item")
        known_interactions = self.interactions.filter(pl.col("time") <= period.known_until)
        item_counts = self._item_counts_of_users + np.bincount(
            known_interactions["user"].to_numpy(), minlength=len(self._item_counts_of_users)
        )
        # Popularity's list leaves out the items that the user had, at most this many. So it reaches
        # no further down in the ranking than its length and their number.
        reach = pl.Series(item_counts[candidates["user"].to_numpy()]) + pl.col("length")
        candidates = candidates.with_columns(reach=reach).filter(pl.col("place") <= pl.col("reach"))
        seen = self._find_seen(
            candidates.select("user", "reach").unique("user"), known_interactions, place
        )
        items = pl.concat(
            [candidates.with_columns(seen=0), seen.with_columns(length=None, reach=None, seen=1)],
            how="diagonal_relaxed",
        ).sort("user", "place")
        # An item's place among the items that the user did not have: its place in the ranking, less
        # the number of seen items before it.
        own_place = pl.col("place") - pl.col("seen").cum_sum().over("user")
        hits = items.with_columns(place=own_place).filter(pl.col("seen") == 0)
        return hits.filter(pl.col("place") <= pl.col("length")).select("user", "item")

    def _find_seen(
        self, users: pl.DataFrame, known_interactions: pl.DataFrame, place: Numbers
    ) -> pl.DataFrame:
        """The items that users had when an edition was made, with the columns user, item and place.

        Items that are further down in the ranking than a list can reach are left out.

        users: the columns user and reach, the last place that the user's list can reach.
        known_interactions: the interactions after `since` that the edition was made from.
        place: the place of each item in the ranking.
        """
        reach = np.zeros(len(self._item_counts_of_users), np.int64)
        reach[users["user"].to_numpy()] = users["reach"].to_numpy()
        user, item = self._past.users, self._past.items
        is_in_reach = place[item] <= reach[user]
        past = pl.DataFrame({"user": user[is_in_reach], "item": item[is_in_reach]}, schema=CODES)
        places = pl.DataFrame({"item": np.arange(len(place)), "place": place}, schema=PLACED)
        return (
            pl.concat([past, known_interactions.select("user", "item")])
            .unique()
            .join(users.select("user"), on="user", how="semi")
            .join(places, on="item")
        )

    def _rank_by_popularity(self, until: int) -> Numbers:
        """The place of each item by its number of interactions until then, from 1.

        It is FAR for items that have none.
        """
        counts = self._counts[f"{until}"].to_numpy().astype(np.int64)
        order = np.argsort(-counts, kind="stable")
        place = np.empty(len(counts), np.int64)
        place[order] = np.arange(1, len(counts) + 1)
        return np.where(counts > 0, place, FAR)


def sum_period(
    period: Period, lists: PeriodLists, later: LaterInteractions, groups: UserGroups
) -> pl.DataFrame:
    """The sums of the requested users by arm and group, with the columns of SCHEMA."""
    chosen = later.find_chosen_items(period, new=lists.exclude_seen)
    listed, hits = _match_lists(lists, later, chosen)
    length = listed.select(pl.col("length").max().fill_null(0)).item()
    unlisted = pl.DataFrame({"user_id": lists.users_without}, schema={"user_id": pl.String})
    # For a user without a list, popularity's list has the common length.
    requested = pl.concat([listed, unlisted.with_columns(length=pl.lit(length, pl.Int64))])
    ids = requested.get_column("user_id")
    arms = pl.lit(MODEL) if lists.experiment is None else assign_arms(ids, lists.experiment)
    requested = groups.add_to(requested.with_columns(arm=arms))
    measures = _measure_users(period, lists, later, chosen, hits, requested)
    name = lists.experiment.model_dump_json() if lists.experiment else ""
    summed = (*SUMS, *VALUES) if later.has_values else SUMS
    sums = (
        requested.join(measures, on="user_id", how="left")
        .with_columns(users=pl.lit(1.0))
        .group_by("arm", "group")
        .agg(pl.col(column).cast(pl.Float64).fill_null(0).sum() for column in summed)
        .with_columns(
            edition=period.edition.number,
            name=pl.lit(period.edition.name),
            experiment=pl.lit(name),
            since=pl.lit(period.since),
            start=period.start,
            end=period.end,
            length=length,
            success=pl.lit(later.success),
        )
    )
    return complete_sums(sums).sort("arm", "group")


def _match_lists(
    lists: PeriodLists, later: LaterInteractions, chosen: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The length of each user's list, and the hits: the chosen items that are on their user's list.

    The columns are user_id and length, and user and item.

    chosen: the items that users interacted with, in the columns user and item.
    """
    ids = pl.DataFrame(
        {
            "user_id": later.users.gather(chosen["user"]),
            "item_id": later.items.gather(chosen["item"]),
        }
    )
    chosen_with_ids = pl.concat([chosen, ids], how="horizontal")
    listed, hits = pl.collect_all(
        [
            lists.rows.group_by("user_id").agg(length=pl.col("rank").max().cast(pl.Int64)),
            lists.rows.select("user_id", "item_id").join(
                chosen_with_ids.lazy(), on=["user_id", "item_id"]
            ),
        ],
        engine="streaming",
    )
    return listed, hits.select("user", "item")


def _measure_users(
    period: Period,
    lists: PeriodLists,
    later: LaterInteractions,
    chosen: pl.DataFrame,
    hits: pl.DataFrame,
    requested: pl.DataFrame,
) -> pl.DataFrame:
    """The numbers of SUMS for each user who interacted in the period, besides `users`.

    And those of VALUES, if there are values.

    chosen: the items that users interacted with, in the columns user and item.
    hits: those of them that are on the user's list.
    requested: the columns user_id and length.
    """
    numbered = later.users.alias("user_id").to_frame().with_row_index("user")
    numbered = numbered.join(requested.select("user_id", "length"), on="user_id")
    new = chosen.join(numbered.select("user", "length"), on="user")
    popular = later.find_popular_hits(period, new, exclude_seen=lists.exclude_seen)
    counts_of_users = [
        new.group_by("user").agg(new=pl.len()),
        hits.group_by("user").agg(hits=pl.len()),
        popular.group_by("user").agg(popular_hits=pl.len()),
    ]
    in_period = later.find_counted(period)
    if later.has_values:
        counts_of_users += [
            in_period.group_by("user").agg(value=pl.col("value").sum()),
            _sum_values(in_period, hits, "hit_value"),
            _sum_values(in_period, popular, "popular_hit_value"),
        ]
    users = in_period.group_by("user").agg(interactions=pl.len()).join(numbered, on="user")
    for counts in counts_of_users:
        users = users.join(counts, on="user", how="left")
    return users.select(
        "user_id",
        "interactions",
        "new",
        "hits",
        "popular_hits",
        active=pl.col("new") > 0,
        hit_users=pl.col("hits") > 0,
        recall=pl.col("hits") / pl.col("new"),
        popular_hit_users=pl.col("popular_hits") > 0,
        popular_recall=pl.col("popular_hits") / pl.col("new"),
        **({name: pl.col(name) for name in VALUES} if later.has_values else {}),
    )


def _sum_values(in_period: pl.DataFrame, hits: pl.DataFrame, name: str) -> pl.DataFrame:
    """The sum of the values of each user's interactions with the items of hits.

    The columns are user and the given name.
    """
    of_hits = in_period.join(hits.select("user", "item"), on=["user", "item"], how="semi")
    return of_hits.group_by("user").agg(pl.col("value").sum().alias(name))
