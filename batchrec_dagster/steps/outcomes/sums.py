"""Sums of users' interactions and hits in a period, over groups of users.

A new interaction is a user's first interaction in the period with an item that the user did not
have before the period. If lists may contain items that the user had, every item that the user
interacted with in the period counts once. A new interaction is a hit if the item is on the user's
list.

The lists are compared with lists of popular items. For each user, the list of popular items is as
long as the user's list, and has the items that were popular when the edition was made. If the
edition's lists leave out the items that the user had by then, so does the list of popular items.

If types of events are declared as success, only interactions of these types count: a purchase of an
item on the list is a hit, and a click is not. But an item that the user had before by any type of
event is not new, because lists leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.personalize.schemas import (
    EVENT_VALUE,
    ITEM_ID,
    SECONDS_A_DAY,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.steps.data.numbered_ids import find_positions
from batchrec_dagster.steps.data.popular_items import (
    ENOUGH_ITEMS,
    count_popular_items,
    find_popular_items,
)
from batchrec_dagster.steps.data.success import is_of_types
from batchrec_dagster.steps.outcomes.arms import MODEL, UserGroups, assign_arms
from batchrec_dagster.steps.outcomes.periods import Period

# The columns that are sums over the users of a group:
# users: the number of users with a list; in an experiment, also requested users without a list.
# active: the number of users with a new interaction.
# interactions: the number of interactions in the period.
# new: the number of new interactions.
# hits: the number of new interactions with items on the user's list.
# hit_users: the number of users with a hit.
# recall: the sum over active users of the user's hits divided by the user's new interactions.
# popular_…: hits, hit_users and recall for lists of popular items.
# If there are events of success, all columns but `users` count only these events.
SUMS = (
    *("users", "active", "interactions", "new", "hits", "hit_users", "recall"),
    *("popular_hits", "popular_hit_users", "popular_recall"),
)
# More sums over the users of a group. They are null unless there are events of success and the
# interactions have an EVENT_VALUE.
# value: the sum of EVENT_VALUE over all interactions that count.
# hit_value: the sum of EVENT_VALUE over interactions with the items of the user's hits.
# popular_hit_value: hit_value for lists of popular items.
VALUES = ("value", "hit_value", "popular_hit_value")
SUMS_SCHEMA: dict[str, pl.DataType] = {
    "edition": pl.Int64(),
    "name": pl.String(),
    "experiment": pl.String(),
    "since": pl.String(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "length": pl.Int64(),
    "arm": pl.String(),
    "group": pl.Int32(),
    # The only types of events that count, as `format_events` writes them; empty if all count.
    "success": pl.String(),
    **dict.fromkeys((*SUMS, *VALUES), pl.Float64()),
}
PAIR = ["user", "item"]


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
    """Whether a list leaves out the items that its user had when the edition was made."""


class LaterInteractions:
    """The interactions after a given time, and the items that their users had by that time.

    The items that users had take 8 bytes of memory for each interaction.

    interactions: the columns USER_ID, ITEM_ID and TIMESTAMP (in epoch seconds). EVENT_TYPE and
        EVENT_VALUE are read if there are events of success.
    since: the given time: the earliest start or known_until of the periods, in epoch seconds.
    days: the number of days over which the popularity of items is counted.
    success: the types of events that count as success; all types count if it is empty.
    """

    def __init__(
        self, interactions: pl.LazyFrame, since: int, days: int, success: Sequence[str] = ()
    ) -> None:
        self._interactions, self._days, self._success = interactions, days, success
        self.success = format_events(success)
        self.has_values = bool(success) and EVENT_VALUE in interactions.collect_schema()
        users, items = pl.collect_all(
            [interactions.select(pl.col(name).unique().sort()) for name in (USER_ID, ITEM_ID)],
            engine="streaming",
        )
        self.users, self.items = users.to_series(), items.to_series()
        numbered = interactions.select(
            user=find_positions(USER_ID, self.users).cast(pl.UInt32),
            item=find_positions(ITEM_ID, self.items).cast(pl.UInt32),
            time=TIMESTAMP,
            is_success=is_of_types(interactions, success),
            value=pl.col(EVENT_VALUE).cast(pl.Float64) if self.has_values else pl.lit(None),
        )
        time = pl.col("time")
        recent = numbered.filter(time > since - days * SECONDS_A_DAY).collect(engine="streaming")
        self._later = recent.filter(time > since)
        self._recent_successes = recent.lazy().filter("is_success")
        later_users = self._later.lazy().select("user").unique()
        past = numbered.filter(time <= since).select(PAIR).join(later_users, on="user", how="semi")
        self._past = past.collect(engine="streaming")

    def find_counted(self, period: Period) -> pl.DataFrame:
        """Return the interactions of the period that count as success."""
        time = pl.col("time")
        in_period = self._later.filter(time > period.start, time <= period.end)
        return in_period.filter("is_success")

    def find_chosen_items(self, period: Period, *, new: bool) -> pl.DataFrame:
        """Return the pairs of a user and an item that the user chose in the period, each pair once.

        new: whether to leave out the items that the user had before the period.
        """
        pairs = self.find_counted(period).select(PAIR).unique()
        if new:
            pairs = pairs.join(self._find_had(pairs, period.start), on=PAIR, how="anti")
        return pairs

    def find_popular_hits(
        self, period: Period, chosen: pl.DataFrame, *, exclude_seen: bool
    ) -> pl.DataFrame:
        """Return the chosen items that would be on the user's list of popular items.

        The columns are user and item.

        chosen: the items that users interacted with: the columns user, item and length (the length
            of the user's list).
        exclude_seen: whether a list of popular items leaves out the items that its user had when
            the edition was made.
        """
        ranking = self._rank_popular_items(period.known_until)
        placed = chosen.join(ranking, on="item").with_columns(seen=0)
        if exclude_seen:
            had = self._find_had(chosen, period.known_until).unique().join(ranking, on="item")
            placed = pl.concat([placed, had.with_columns(seen=1)], how="diagonal_relaxed")
        # An item's rank among the items that the user did not have is the item's rank among all
        # popular items, minus the number of seen items before it.
        own_rank = pl.col("rank") - pl.col("seen").cum_sum().over("user", order_by="rank")
        is_hit = (pl.col("seen") == 0) & (own_rank <= pl.col("length"))
        return placed.filter(is_hit).select(PAIR)

    def _find_had(self, pairs: pl.DataFrame, until: int) -> pl.DataFrame:
        """Return the items that the users of these pairs had until the given time."""
        users = pairs.select("user").unique()
        later = self._later.filter(pl.col("time") <= until).select(PAIR)
        had = [frame.join(users, on="user", how="semi") for frame in (self._past, later)]
        return pl.concat(had)

    def _rank_popular_items(self, until: int) -> pl.DataFrame:
        """Return the items that were popular at the given time.

        The columns are item and rank, from 1.
        """
        recent = self._recent_successes.rename(
            {"user": USER_ID, "item": ITEM_ID, "time": TIMESTAMP}
        )
        items = count_popular_items(recent, self._days, (), until=until).get_column(ITEM_ID)
        if len(items) < ENOUGH_ITEMS:
            popular = find_popular_items(self._interactions, self._days, self._success, until)
            positions = find_positions(ITEM_ID, self.items).cast(pl.UInt32)
            items = popular.ids.to_frame(ITEM_ID).select(positions).to_series()
        ranks = pl.int_range(1, len(items) + 1, dtype=pl.Int64, eager=True)
        return pl.DataFrame({"item": items, "rank": ranks})


def sum_period(
    period: Period, lists: PeriodLists, later: LaterInteractions, groups: UserGroups
) -> pl.DataFrame:
    """Return the sums over the requested users by arm and group, in the columns of SUMS_SCHEMA."""
    chosen = later.find_chosen_items(period, new=lists.exclude_seen)
    listed, hits = _match_lists(lists, later, chosen)
    length = listed.select(pl.col("length").max().fill_null(0)).item()
    unlisted = pl.DataFrame({"user_id": lists.users_without}, schema={"user_id": pl.String})
    # The list of popular items of a user without a list is as long as the longest list.
    requested = pl.concat([listed, unlisted.with_columns(length=pl.lit(length, pl.Int64))])
    ids = requested.get_column("user_id")
    arms = pl.lit(MODEL) if lists.experiment is None else assign_arms(ids, lists.experiment)
    requested = groups.add_to(requested.with_columns(arm=arms))
    counts = _count_for_users(period, lists, later, chosen, hits, requested)
    summed = (*SUMS, *VALUES) if later.has_values else SUMS
    missing = [] if later.has_values else [pl.lit(None).alias(name) for name in VALUES]
    experiment = lists.experiment.model_dump_json() if lists.experiment else ""
    return (
        requested.join(counts, on="user_id", how="left")
        .with_columns(users=pl.lit(1.0))
        .group_by("arm", "group")
        .agg(pl.col(column).cast(pl.Float64).fill_null(0).sum() for column in summed)
        .with_columns(
            *missing,
            edition=period.edition.number,
            name=pl.lit(period.edition.name),
            experiment=pl.lit(experiment),
            since=pl.lit(period.since),
            start=period.start,
            end=period.end,
            length=length,
            success=pl.lit(later.success),
        )
        .select(pl.col(column).cast(kind) for column, kind in SUMS_SCHEMA.items())
        .sort("arm", "group")
    )


def format_events(events: Sequence[str]) -> str:
    """Return the types of events as a text that does not depend on their order or case."""
    return ", ".join(sorted(name.lower() for name in events))


def _match_lists(
    lists: PeriodLists, later: LaterInteractions, chosen: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the length of each user's list, and the chosen items that are on the user's list.

    The first table has the columns user_id and length. The second table has the columns user and
    item.

    chosen: the items that users interacted with: the columns user and item.
    """
    with_ids = chosen.with_columns(
        user_id=later.users.gather(chosen.get_column("user")),
        item_id=later.items.gather(chosen.get_column("item")),
    )
    listed, hits = pl.collect_all(
        [
            lists.rows.group_by("user_id").agg(length=pl.col("rank").max().cast(pl.Int64)),
            lists.rows.join(with_ids.lazy(), on=["user_id", "item_id"]).select(PAIR),
        ],
        engine="streaming",
    )
    return listed, hits


def _count_for_users(
    period: Period,
    lists: PeriodLists,
    later: LaterInteractions,
    chosen: pl.DataFrame,
    hits: pl.DataFrame,
    requested: pl.DataFrame,
) -> pl.DataFrame:
    """Return the columns of SUMS, without `users`, for each user who interacted in the period.

    If there are event values, the columns of VALUES are added.

    chosen: the items that users interacted with: the columns user and item.
    hits: the chosen items that are on the user's list: the columns user and item.
    requested: the users who should have a list: the columns user_id and length (the length of the
        user's list).
    """
    numbered = later.users.alias("user_id").to_frame().with_row_index("user")
    numbered = numbered.join(requested.select("user_id", "length"), on="user_id")
    new = chosen.join(numbered.select("user", "length"), on="user")
    popular = later.find_popular_hits(period, new, exclude_seen=lists.exclude_seen)
    in_period = later.find_counted(period)
    counts_of_users = [
        new.group_by("user").agg(new=pl.len()),
        hits.group_by("user").agg(hits=pl.len()),
        popular.group_by("user").agg(popular_hits=pl.len()),
    ]
    if later.has_values:
        counts_of_users += [
            in_period.group_by("user").agg(value=pl.col("value").sum()),
            _sum_values(in_period, hits, "hit_value"),
            _sum_values(in_period, popular, "popular_hit_value"),
        ]
    users = in_period.group_by("user").agg(interactions=pl.len()).join(numbered, on="user")
    for counts in counts_of_users:
        users = users.join(counts, on="user", how="left")
    return users.with_columns(
        active=pl.col("new") > 0,
        hit_users=pl.col("hits") > 0,
        recall=pl.col("hits") / pl.col("new"),
        popular_hit_users=pl.col("popular_hits") > 0,
        popular_recall=pl.col("popular_hits") / pl.col("new"),
    ).drop("user", "length")


def _sum_values(in_period: pl.DataFrame, hits: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the sum of the event values of each user's interactions with items of the hits.

    The columns are user and the given name.
    """
    of_hits = in_period.join(hits, on=PAIR, how="semi")
    return of_hits.group_by("user").agg(pl.col("value").sum().alias(name))
