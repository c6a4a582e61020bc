"""Sums over groups of users of what they did after each edition: all that intervals need.

A new interaction is a user's with an item that they had not had before the period; where the lists
may contain items that their user has, every item counts once. It is on the list if the user's list
has the item. Popularity's list for a user, of the same length, has the items with most interactions
when the edition was made, without those that the user had then, where the lists leave these out.
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
    """What happened after `start` and until `end` came after this edition and before the next.

    known_until: the newest interaction that the edition was made from. All in epoch seconds.
    since: PUBLICATION or DATA, see `find_periods`.
    """

    edition: Edition
    known_until: int
    start: int
    end: int
    since: str


def find_periods(
    editions: Sequence[Edition], newest: int, published_again: Sequence[tuple[int, datetime]] = ()
) -> list[Period]:
    """The periods of the editions, oldest first, up to the newest interaction (epoch seconds).

    Where interactions are newer than the first publication, a period starts with its edition's
    publication: only then can a list have changed what people do. Data that end before it, such as
    an old file, say nothing of that, but still how well lists foresee what comes: then a period
    starts where the edition's own data end.

    published_again: edition numbers and times, as from `rollback_times`.
    """
    there = {edition.number: edition for edition in editions if "made_at" in edition.about}
    if not there:
        return []
    made = {
        number: int(datetime.fromisoformat(edition.about["made_at"]).timestamp())
        for number, edition in there.items()
    }
    if newest > min(made.values()):
        again = [(int(at.timestamp()), number) for number, at in published_again if number in there]
        since = PUBLICATION
        # What an edition was made from is not after it, even if its clock is ahead.
        after = [
            (max(at, int(there[number].about.get("data_until", at))), number)
            for number, at in made.items()
        ]
        starts = sorted([*after, *again])
    else:
        since = DATA
        starts = [
            (int(there[number].about["data_until"]), number)
            for number in sorted(there)
            if "data_until" in there[number].about
        ]
    # An edition that is published again while it is published starts no other period.
    befores = [(0, -1), *starts]
    live = [one for one, before in zip(starts, befores, strict=False) if one[1] != before[1]]
    return [
        Period(there[number], known_until, start, min(end, newest), since)
        for (start, number), (end, _) in pairwise([*live, (newest, -1)])
        for known_until in [int(there[number].about.get("data_until", start))]
        if min(end, newest) > start
    ]


# Columns of the sums. users: on the edition's lists, or in its control; active: those of them with
# a new interaction; interactions: all in the period; new: new ones; hits: new ones on the list;
# hit_users: users with a hit; recall: the sum of each active user's hits / new; popular_…: the same
# of popularity's lists.
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
    """What a period's users got. rows: user_id, rank, item_id; without: the ids of those requested
    who have no rows; experiment: of the edition, None where all users get the model's lists."""

    rows: pl.LazyFrame
    without: pl.Series
    experiment: Experiment | None
    exclude_seen: bool


# No list reaches so far.
FAR = 2**60
CODES = {"user": pl.UInt32, "item": pl.UInt32}
PLACED = {"item": pl.UInt32, "place": pl.Int64}


class LaterInteractions:
    """The interactions after a time, and what their users had by then.

    Memory: 8 bytes for each item that such a user had, 16 while reading. interactions: USER_ID,
    ITEM_ID, TIMESTAMP (epoch seconds). since: the earliest start or known_until of a period.
    known_until: of each period.
    """

    def __init__(self, interactions: pl.LazyFrame, since: int, known_until: Sequence[int]) -> None:
        later = pl.col(TIMESTAMP) > since
        counts = [(pl.col(TIMESTAMP) <= until).sum().alias(f"{until}") for until in {*known_until}]
        users, counted = pl.collect_all(
            [
                interactions.filter(later).select(user_id=pl.col(USER_ID).unique()),
                interactions.group_by(ITEM_ID).agg(counts),
            ],
            engine="streaming",
        )
        # Equally popular items go by their ids, in whose order the numbers are.
        counted = counted.sort(ITEM_ID)
        self.users = users.get_column("user_id")
        self.items = counted.get_column(ITEM_ID)
        self._counts = counted
        coded = interactions.select(
            user=find_positions(USER_ID, self.users).cast(pl.UInt32),
            item=find_positions(ITEM_ID, self.items).cast(pl.UInt32),
            time=pl.col(TIMESTAMP),
        ).drop_nulls("user")
        self.later = coded.filter(pl.col("time") > since).collect(engine="streaming")
        # What their users had by `since`.
        self._past = Pairs(coded.filter(pl.col("time") <= since))
        self._had = np.bincount(self._past.users, minlength=len(self.users))

    def chosen(self, period: Period, *, new: bool) -> pl.DataFrame:
        """user, item: what each user had to do with in the period; `new` leaves out what they had
        before it."""
        time = pl.col("time")
        within = self.later.filter(time > period.start, time <= period.end)
        pairs = within.select("user", "item").unique()
        if not new or not pairs.height:
            return pairs
        before = self.later.filter(time <= period.start).select("user", "item").unique()
        pairs = pairs.join(before, on=["user", "item"], how="anti")
        return pairs.filter(~self._past.contain(pairs))

    def popular_hits(
        self, period: Period, chosen: pl.DataFrame, *, exclude_seen: bool
    ) -> pl.DataFrame:
        """user, item: those of the chosen that popularity's list of their user has. chosen: user,
        item, length (of the user's list)."""
        place = self._popularity(period.known_until)
        placed = chosen.with_columns(place=pl.Series(place[chosen["item"].to_numpy()]))
        if not exclude_seen:
            return placed.filter(pl.col("place") <= pl.col("length")).select("user", "item")
        known = self.later.filter(pl.col("time") <= period.known_until)
        had = self._had + np.bincount(known["user"].to_numpy(), minlength=len(self._had))
        # No item further down is on the list, whatever the user had.
        reach = pl.Series(had[placed["user"].to_numpy()]) + pl.col("length")
        placed = placed.with_columns(reach=reach).filter(pl.col("place") <= pl.col("reach"))
        seen = self._seen(placed.select("user", "reach").unique("user"), known, place)
        both = pl.concat(
            [placed.with_columns(seen=0), seen.with_columns(length=None, reach=None, seen=1)],
            how="diagonal_relaxed",
        ).sort("user", "place")
        # Its place among the items that the user did not have.
        own_place = pl.col("place") - pl.col("seen").cum_sum().over("user")
        hits = both.with_columns(place=own_place).filter(pl.col("seen") == 0)
        return hits.filter(pl.col("place") <= pl.col("length")).select("user", "item")

    def _seen(self, users: pl.DataFrame, known: pl.DataFrame, place: Numbers) -> pl.DataFrame:
        """user, item, place: what these users had by then, as far as their lists may reach. users:
        user, reach."""
        reach = np.zeros(len(self._had), np.int64)
        reach[users["user"].to_numpy()] = users["reach"].to_numpy()
        user, item = self._past.users, self._past.items
        near = place[item] <= reach[user]
        past = pl.DataFrame({"user": user[near], "item": item[near]}, schema=CODES)
        places = pl.DataFrame({"item": np.arange(len(place)), "place": place}, schema=PLACED)
        return (
            pl.concat([past, known.select("user", "item")])
            .unique()
            .join(users.select("user"), on="user", how="semi")
            .join(places, on="item")
        )

    def _popularity(self, until: int) -> Numbers:
        """The place of each item by its interactions until then, 1 first; FAR without any."""
        counts = self._counts[f"{until}"].to_numpy().astype(np.int64)
        order = np.argsort(-counts, kind="stable")
        place = np.empty(len(counts), np.int64)
        place[order] = np.arange(1, len(counts) + 1)
        return np.where(counts > 0, place, FAR)


class UserGroups:
    """The groups of users, hashed once for all periods."""

    def __init__(self) -> None:
        self._known = pl.DataFrame(schema={"user_id": pl.String, "group": pl.Int32})

    def of(self, users: pl.DataFrame) -> pl.DataFrame:
        """The same users, with their `group`. users: user_id, each once."""
        missing = users.select("user_id").join(self._known, on="user_id", how="anti")
        hashed = missing.with_columns(assign_groups(missing.get_column("user_id")))
        self._known = pl.concat([self._known, hashed])
        return users.join(self._known, on="user_id")


def sum_period(
    period: Period, lists: PeriodLists, later: LaterInteractions, hashed: UserGroups
) -> pl.DataFrame:
    """The period's sums by arm and group, with the columns of SCHEMA."""
    chosen = later.chosen(period, new=lists.exclude_seen)
    listed, hits = _match_lists(lists, later, chosen)
    length = listed.select(pl.col("length").max().fill_null(0)).item()
    without = pl.DataFrame({"user_id": lists.without}, schema={"user_id": pl.String})
    # Who got no list is compared with a list of the common length.
    requested = pl.concat([listed, without.with_columns(length=pl.lit(length, pl.Int64))])
    ids = requested.get_column("user_id")
    division = pl.lit(MODEL) if lists.experiment is None else assign_arms(ids, lists.experiment)
    requested = hashed.of(requested.with_columns(arm=division))
    each = _measure_users(period, lists, later, chosen, hits, requested)
    name = lists.experiment.model_dump_json() if lists.experiment else ""
    return (
        requested.join(each, on="user_id", how="left")
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
    """user_id, length: of each list; and user, item: those of the chosen that are on it."""
    ids = pl.DataFrame(
        {
            "user_id": later.users.gather(chosen["user"]),
            "item_id": later.items.gather(chosen["item"]),
        }
    )
    named = pl.concat([chosen, ids], how="horizontal")
    listed, hits = pl.collect_all(
        [
            lists.rows.group_by("user_id").agg(length=pl.col("rank").max().cast(pl.Int64)),
            lists.rows.select("user_id", "item_id").join(named.lazy(), on=["user_id", "item_id"]),
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
    names = later.users.alias("user_id").to_frame().with_row_index("user")
    names = names.join(requested.select("user_id", "length"), on="user_id")
    new = chosen.join(names.select("user", "length"), on="user")
    popular = later.popular_hits(period, new, exclude_seen=lists.exclude_seen)
    counted = [
        new.group_by("user").agg(new=pl.len()),
        hits.group_by("user").agg(hits=pl.len()),
        popular.group_by("user").agg(popular_hits=pl.len()),
    ]
    time = pl.col("time")
    within = later.later.filter(time > period.start, time <= period.end)
    users = within.group_by("user").agg(interactions=pl.len()).join(names, on="user")
    for counts in counted:
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
