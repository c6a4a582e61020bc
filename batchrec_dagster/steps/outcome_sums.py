"""Sums, over groups of users, of what they did after each edition: all that intervals need.

A new interaction of a user is one with an item that they did not have before the period. Where the
lists may contain items that their user has, every item counts once. A new interaction is a hit if
the user's list has the item.

Popularity's list for a user has the same length. It has the items with most interactions when the
edition was made; where the lists leave out what the user had then, so does popularity's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np
import polars as pl

from batchrec_dagster.config.recommendations import Experiment
from batchrec_dagster.outcomes.arms import MODEL, assign_arms, assign_groups
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.steps.recommendation_table import Numbers, Pairs, find_positions
from batchrec_dagster.storage.published_table import Edition

# What a period starts with: the publication of its edition, or the end of the edition's data.
PUBLICATION, DATA = "publication", "data"


@dataclass(frozen=True)
class Period:
    """The time after an edition and before the next one, in epoch seconds.

    What happened after `start`, and until `end`, belongs to it.
    """

    edition: Edition
    known_until: int
    """The time of the newest interaction that the edition was made from."""
    start: int
    end: int
    since: str
    """PUBLICATION or DATA, see `find_periods`."""


def find_periods(
    editions: Sequence[Edition], newest: int, published_again: Sequence[tuple[int, datetime]] = ()
) -> list[Period]:
    """The periods of the editions, oldest first, up to the newest interaction (epoch seconds).

    Where interactions are newer than the first publication, a period starts with its edition's
    publication: only then can a list have changed what people do. Data that end before it, such as
    an old file, say nothing of that, but still how well lists foresee what comes: then a period
    starts where the edition's own data end.

    published_again: edition numbers and times, as from `Rollbacks.times`.
    """
    by_number = {edition.number: edition for edition in editions if "made_at" in edition.about}
    if not by_number:
        return []
    publication_times = {
        number: int(datetime.fromisoformat(edition.about["made_at"]).timestamp())
        for number, edition in by_number.items()
    }
    if newest > min(publication_times.values()):
        rollbacks = [
            (int(time.timestamp()), number)
            for number, time in published_again
            if number in by_number
        ]
        since = PUBLICATION
        # What an edition was made from is not after it, even if its clock is ahead.
        publications = [
            (max(time, int(by_number[number].about.get("data_until", time))), number)
            for number, time in publication_times.items()
        ]
        starts = sorted([*publications, *rollbacks])
    else:
        since = DATA
        starts = [
            (int(by_number[number].about["data_until"]), number)
            for number in sorted(by_number)
            if "data_until" in by_number[number].about
        ]
    # An edition that is published again while it is published starts no other period.
    changes = [
        (start, number)
        for (_, previous_number), (start, number) in pairwise([(0, -1), *starts])
        if number != previous_number
    ]
    periods = []
    for (start, number), (next_start, _) in pairwise([*changes, (newest, -1)]):
        end = min(next_start, newest)
        if end > start:
            edition = by_number[number]
            known_until = int(edition.about.get("data_until", start))
            periods.append(Period(edition, known_until, start, end, since))
    return periods


# The columns that are sums:
# users: those on the edition's lists, or in its control.
# active: those of them with a new interaction.
# interactions: all in the period.
# new: the new ones.
# hits: the new ones that are on the user's list.
# hit_users: the users with a hit.
# recall: over the active users, each one's hits / new.
# popular_…: the same for popularity's lists.
SUMS = (
    *("users", "active", "interactions", "new", "hits", "hit_users", "recall"),
    *("popular_hits", "popular_hit_users", "popular_recall"),
)
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
    **dict.fromkeys(SUMS, pl.Float64()),
}


@dataclass(frozen=True)
class PeriodLists:
    """What a period's users got."""

    rows: pl.LazyFrame
    """The columns user_id, rank and item_id."""
    users_without: pl.Series
    """The ids of the requested users who have no rows."""
    experiment: Experiment | None
    """The edition's; None where all users get the model's lists."""
    exclude_seen: bool


# A place that no list reaches.
FAR = 2**60
# The columns of users and items by their numbers, and of items by their place in a ranking.
CODES = {"user": pl.UInt32, "item": pl.UInt32}
PLACED = {"item": pl.UInt32, "place": pl.Int64}


class LaterInteractions:
    """The interactions after a time, and what their users had by then.

    They take 8 bytes of memory for each item that such a user had, and 16 while they are read.

    interactions: the columns USER_ID, ITEM_ID and TIMESTAMP, in epoch seconds.
    since: the earliest start or known_until of a period.
    known_until: that of each period.
    """

    def __init__(self, interactions: pl.LazyFrame, since: int, known_until: Sequence[int]) -> None:
        later = pl.col(TIMESTAMP) > since
        counts = [(pl.col(TIMESTAMP) <= until).sum().alias(f"{until}") for until in {*known_until}]
        users, item_counts = pl.collect_all(
            [
                interactions.filter(later).select(user_id=pl.col(USER_ID).unique()),
                interactions.group_by(ITEM_ID).agg(counts),
            ],
            engine="streaming",
        )
        # Equally popular items are in the order of their ids, as their numbers are.
        item_counts = item_counts.sort(ITEM_ID)
        self.users = users.get_column("user_id")
        self.items = item_counts.get_column(ITEM_ID)
        self._counts = item_counts
        numbered = interactions.select(
            user=find_positions(USER_ID, self.users).cast(pl.UInt32),
            item=find_positions(ITEM_ID, self.items).cast(pl.UInt32),
            time=pl.col(TIMESTAMP),
        ).drop_nulls("user")
        self.later = numbered.filter(pl.col("time") > since).collect(engine="streaming")
        # What their users had by `since`.
        self._past = Pairs(numbered.filter(pl.col("time") <= since))
        self._item_counts_of_users = np.bincount(self._past.users, minlength=len(self.users))

    def find_chosen(self, period: Period, *, new: bool) -> pl.DataFrame:
        """The columns user and item: which items each user interacted with in the period.

        new: whether to leave out the items that the user had before it.
        """
        time = pl.col("time")
        within = self.later.filter(time > period.start, time <= period.end)
        pairs = within.select("user", "item").unique()
        if not new or not pairs.height:
            return pairs
        before = self.later.filter(time <= period.start).select("user", "item").unique()
        pairs = pairs.join(before, on=["user", "item"], how="anti")
        return pairs.filter(~self._past.contain(pairs))

    def find_popular_hits(
        self, period: Period, chosen: pl.DataFrame, *, exclude_seen: bool
    ) -> pl.DataFrame:
        """The columns user and item: the chosen items that are on popularity's list of their user.

        chosen: the columns user, item, and length, that of the user's list.
        """
        place = self._rank_by_popularity(period.known_until)
        candidates = chosen.with_columns(place=pl.Series(place[chosen["item"].to_numpy()]))
        if not exclude_seen:
            return candidates.filter(pl.col("place") <= pl.col("length")).select("user", "item")
        known = self.later.filter(pl.col("time") <= period.known_until)
        item_counts = self._item_counts_of_users + np.bincount(
            known["user"].to_numpy(), minlength=len(self._item_counts_of_users)
        )
        # No item further down is on the list, whatever the user had.
        reach = pl.Series(item_counts[candidates["user"].to_numpy()]) + pl.col("length")
        candidates = candidates.with_columns(reach=reach).filter(pl.col("place") <= pl.col("reach"))
        seen = self._find_seen(candidates.select("user", "reach").unique("user"), known, place)
        items = pl.concat(
            [candidates.with_columns(seen=0), seen.with_columns(length=None, reach=None, seen=1)],
            how="diagonal_relaxed",
        ).sort("user", "place")
        # Its place among the items that the user did not have.
        own_place = pl.col("place") - pl.col("seen").cum_sum().over("user")
        hits = items.with_columns(place=own_place).filter(pl.col("seen") == 0)
        return hits.filter(pl.col("place") <= pl.col("length")).select("user", "item")

    def _find_seen(self, users: pl.DataFrame, known: pl.DataFrame, place: Numbers) -> pl.DataFrame:
        """The columns user, item and place: what users had by then, as far as lists may reach.

        users: the columns user and reach.
        known: the interactions by then.
        place: that of each item.
        """
        reach = np.zeros(len(self._item_counts_of_users), np.int64)
        reach[users["user"].to_numpy()] = users["reach"].to_numpy()
        user, item = self._past.users, self._past.items
        is_in_reach = place[item] <= reach[user]
        past = pl.DataFrame({"user": user[is_in_reach], "item": item[is_in_reach]}, schema=CODES)
        places = pl.DataFrame({"item": np.arange(len(place)), "place": place}, schema=PLACED)
        return (
            pl.concat([past, known.select("user", "item")])
            .unique()
            .join(users.select("user"), on="user", how="semi")
            .join(places, on="item")
        )

    def _rank_by_popularity(self, until: int) -> Numbers:
        """The place of each item by its interactions until then, 1 first; FAR without any."""
        counts = self._counts[f"{until}"].to_numpy().astype(np.int64)
        order = np.argsort(-counts, kind="stable")
        place = np.empty(len(counts), np.int64)
        place[order] = np.arange(1, len(counts) + 1)
        return np.where(counts > 0, place, FAR)


class UserGroups:
    """The groups of users. Each user is hashed once for all periods."""

    def __init__(self) -> None:
        self._groups = pl.DataFrame(schema={"user_id": pl.String, "group": pl.Int32})

    def add_to(self, users: pl.DataFrame) -> pl.DataFrame:
        """The same users, with their `group`.

        users: the column user_id, with each user once.
        """
        missing = users.select("user_id").join(self._groups, on="user_id", how="anti")
        newly_hashed = missing.with_columns(assign_groups(missing.get_column("user_id")))
        self._groups = pl.concat([self._groups, newly_hashed])
        return users.join(self._groups, on="user_id")


def sum_period(
    period: Period, lists: PeriodLists, later: LaterInteractions, groups: UserGroups
) -> pl.DataFrame:
    """The period's sums by arm and group, with the columns of SCHEMA."""
    chosen = later.find_chosen(period, new=lists.exclude_seen)
    listed, hits = _match_lists(lists, later, chosen)
    length = listed.select(pl.col("length").max().fill_null(0)).item()
    without = pl.DataFrame({"user_id": lists.users_without}, schema={"user_id": pl.String})
    # A user without a list is compared with a list of the common length.
    requested = pl.concat([listed, without.with_columns(length=pl.lit(length, pl.Int64))])
    ids = requested.get_column("user_id")
    division = pl.lit(MODEL) if lists.experiment is None else assign_arms(ids, lists.experiment)
    requested = groups.add_to(requested.with_columns(arm=division))
    measures = _measure_users(period, lists, later, chosen, hits, requested)
    name = lists.experiment.model_dump_json() if lists.experiment else ""
    return (
        requested.join(measures, on="user_id", how="left")
        .with_columns(users=pl.lit(1.0))
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


def _match_lists(
    lists: PeriodLists, later: LaterInteractions, chosen: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The length of each user's list, and the chosen items (user, item) that are on it."""
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
    numbered = later.users.alias("user_id").to_frame().with_row_index("user")
    numbered = numbered.join(requested.select("user_id", "length"), on="user_id")
    new = chosen.join(numbered.select("user", "length"), on="user")
    popular = later.find_popular_hits(period, new, exclude_seen=lists.exclude_seen)
    counts_of_users = [
        new.group_by("user").agg(new=pl.len()),
        hits.group_by("user").agg(hits=pl.len()),
        popular.group_by("user").agg(popular_hits=pl.len()),
    ]
    time = pl.col("time")
    within = later.later.filter(time > period.start, time <= period.end)
    users = within.group_by("user").agg(interactions=pl.len()).join(numbered, on="user")
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
    )
