"""The users that the report's reader can look up: the recent history and the list of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.report_counts import ReportCounts
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.steps.item_pairs import (
    choose_counted_users,
    number_histories,
    pair_histories,
)
from batchrec_dagster.steps.numbered_ids import NumberedIds, Numbers
from batchrec_dagster.steps.reasons import BECAUSE, NEW, SpeakingItems, select_strongest
from batchrec_dagster.storage.list_subjects import ITEMS

# The report has this many users, and those whom the pipeline names.
MOST_PEOPLE = 200
HISTORY = 25
LIST = 25
# This many items have neighbours in the report, and each has this many.
MOST_ITEMS = 5_000
NEIGHBOURS = 5
# This many items have their published list of similar items in the report, and of each list there
# are at most this many items. Those of 5,000 items would make a large page a tenth larger.
MOST_SIMILAR_LISTS = 1_500
SIMILAR_ITEMS = 10
# Where a row of People.items has the id and the number of lists.
ITEM_IN_ROW, LISTS_IN_ROW = 0, 3
DAY = 86_400
_NONE = np.empty(0, np.int64)
# What stands for the explaining item where a rule put an item on a list, and for popular items of
# an experiment's control, of newcomers and of short lists.
_BY_RULE, _POPULAR = -2, -3


@dataclass(frozen=True)
class People:
    """The users in the report, as its script reads them.

    An item is represented by its place in `items`.
    """

    served: int
    """How many users have a list."""
    counted: int
    """How many users' histories the explanations are counted over."""
    items: list[list[Any]]
    """Rows of id, title, counted users with the item, lists with it, neighbours, image and link.

    The neighbours are the items whose audiences overlap most with the item's, best first. They are
    one flat list, in which the number of counted users who have both follows each item. Items in
    few lists have none. The title, and the addresses image and link, may be None.
    """
    people: list[list[Any]]
    """Rows of user id, number of interactions, history and list.

    The history is a flat list, newest first, in which the day (since 1970) follows each item. The
    list is a flat list too, best first, in which two numbers follow each item: the item that
    explains it, and how many of the counted users have both. It is -1 if no item explains it, -2 if
    a rule put it on the list, and -3 for a popular item that is not the model's.
    """
    similar_items: dict[int, list[int]] | None = None
    """The beginning of the published list of similar items, for the items in most lists.

    The position in such a list is the rank. An item that is not in `items` is -1. None if no lists
    of similar items are published.
    """


def collect_people(
    tables: RunTables, counts: ReportCounts, named: Sequence[str] = (), most: int = MOST_PEOPLE
) -> People:
    """All users with a list, or every n-th by id so that there are at most `most`.

    named: the ids of users who are among them if they have a list.
    """
    sample = _take_every(counts.served, -(-counts.served.len() // most))
    wanted = pl.concat([sample, pl.Series(named, dtype=pl.String)])
    users_shown = counts.served.filter(counts.served.is_in(wanted.implode()))
    lists, histories = pl.collect_all(
        [_select_lists(tables, users_shown), _select_histories(tables, users_shown)],
        engine="streaming",
    )
    items = pl.concat([counts.items.get_column("item"), lists.get_column("item")]).unique().sort()
    users_counted = choose_counted_users(counts.users)
    counted_histories = tables.interactions.select(user_id=USER_ID, item=ITEM_ID)
    had = number_histories(counted_histories, users_counted, items)
    lists = _number_items(lists.sort("user_id", "rank"), items)
    pairs = pair_histories(had, len(users_counted), lists.get_column("column").unique())
    own = select_strongest(tables.interactions, users_shown, items, tables.event_strengths)
    lists = _explain(lists, users_shown, SpeakingItems(own, len(users_shown), pairs))
    lists_by_user = _group_by_user(lists, users_shown)
    histories = histories.sort("user_id", "last", "item", descending=[False, True, False])
    histories_by_user = _group_by_user(_number_items(histories, items), users_shown)
    recent_items = [history[:HISTORY] for history in _to_arrays(histories_by_user, "column")]
    listed_items = _to_arrays(lists_by_user, "column")
    explaining_items = _to_arrays(lists_by_user, "because")
    neighbours = _find_neighbours(lists.get_column("column"), pairs)
    # The page shows explaining and neighbouring items by their titles, so it needs them too.
    neighbouring_items = [
        np.array([other for other, _ in nearest], np.int64) for nearest in neighbours.values()
    ]
    items_used = _order_items(
        [*recent_items, *listed_items, *explaining_items, *neighbouring_items]
    )
    # The places of the items in People.items. No item is -1, and what stands in its place is -2 and
    # -3, which are the places of the last three values.
    places = np.full(len(items) + 3, -1)
    places[[_BY_RULE, _POPULAR]] = _BY_RULE, _POPULAR
    places[items_used] = np.arange(len(items_used))
    rows = [
        [
            user,
            interactions,
            _interleave(places[latest], days[: len(latest)]),
            _interleave(places[listed], places[because], users_with_both),
        ]
        for user, interactions, latest, days, listed, because, users_with_both in zip(
            users_shown,
            histories_by_user.get_column("times").list.sum(),
            recent_items,
            _to_arrays(histories_by_user, "day"),
            listed_items,
            explaining_items,
            _to_arrays(lists_by_user, "both"),
            strict=True,
        )
    ]
    users_with_item = np.bincount(had.get_column("item"), minlength=len(items))
    described_items = _describe_items(
        tables,
        counts,
        ids=items.gather(items_used),
        users=users_with_item[items_used].tolist(),
        neighbours=[
            [
                value
                for neighbour, users_with_both in neighbours.get(column, ())
                for value in (int(places[neighbour]), users_with_both)
            ]
            for column in items_used.tolist()
        ],
    )
    return People(
        served=counts.served.len(),
        counted=users_counted.len(),
        items=described_items,
        people=rows,
        similar_items=None
        if tables.similar_items is None
        else _collect_similar_items(tables.similar_items, described_items),
    )


def _explain(lists: pl.DataFrame, users: pl.Series, speaking: SpeakingItems) -> pl.DataFrame:
    """The lists with the columns because, which explains the item, and both.

    An item with a reason of its own keeps that: the history explains only the model's own items.

    lists: the columns user_id, column, and reason: _BY_RULE, _POPULAR, or 0.
    users: the ids of the users, by their numbers.
    """
    numbered = NumberedIds(users).find(lists.get_column("user_id"))
    overlaps = speaking.find(lists.select(user=numbered, item="column"))
    explained = lists.hstack(overlaps.select("own_item", "both"))
    has_reason = pl.col("reason") < 0
    because, both = pl.col("own_item").cast(pl.Int64), pl.col("both").cast(pl.Int64)
    return explained.with_columns(
        because=pl.when(has_reason).then("reason").otherwise(because.fill_null(-1)),
        both=pl.when(has_reason).then(0).otherwise(both.fill_null(0)),
    )


def _find_neighbours(
    listed_items: pl.Series, pairs: pl.DataFrame
) -> dict[int, list[tuple[int, int]]]:
    """The items that share most people with each of the items in most lists, best first.

    With each stands how many of the counted users have both.

    pairs: as of `pair_histories`.
    """
    frequent_items = (
        listed_items.alias("item")
        .value_counts()
        .sort("count", "item", descending=[True, False])
        .head(MOST_ITEMS)
    )
    nearest = (
        pairs.join(frequent_items, on="item", how="semi")
        .sort("item", "score", "other", descending=[False, True, False])
        .group_by("item", maintain_order=True)
        .head(NEIGHBOURS)
    )
    neighbours: dict[int, list[tuple[int, int]]] = {}
    for item, other, both in nearest.select("item", "other", "both").iter_rows():
        neighbours.setdefault(item, []).append((other, both))
    return neighbours


def _describe_items(
    tables: RunTables,
    counts: ReportCounts,
    *,
    ids: pl.Series,
    users: list[int],
    neighbours: list[list[int]],
) -> list[list[Any]]:
    """The rows of People.items."""
    lists_by_item = dict(counts.lists.select("item", "lists").iter_rows())
    columns = (
        ids.to_list(),
        [shorten_title(title) for title in tables.look_up(ids, "title")],
        users,
        [lists_by_item.get(item, 0) for item in ids],
        neighbours,
        tables.look_up(ids, "image"),
        tables.look_up(ids, "link"),
    )
    return [[*row] for row in zip(*columns, strict=True)]


def _collect_similar_items(
    similar_items: pl.LazyFrame, items: list[list[Any]]
) -> dict[int, list[int]]:
    """People.similar_items.

    items: People.items.
    """
    places = {item[ITEM_IN_ROW]: place for place, item in enumerate(items)}
    by_lists = sorted(range(len(items)), key=lambda place: -items[place][LISTS_IN_ROW])
    lists: dict[int, list[int]] = {place: [] for place in sorted(by_lists[:MOST_SIMILAR_LISTS])}
    ids = pl.LazyFrame({ITEMS.column: [items[place][ITEM_IN_ROW] for place in lists]})
    rows = (
        similar_items.filter(pl.col("rank") <= SIMILAR_ITEMS)
        .select(ITEMS.column, "rank", ITEMS.item_column)
        .join(ids, on=ITEMS.column, how="semi")
        .sort(ITEMS.column, "rank")
        .collect(engine="streaming")
    )
    for item, _, similar_item in rows.iter_rows():
        lists[places[item]].append(places.get(similar_item, -1))
    return lists


def _order_items(item_groups: list[Numbers]) -> Numbers:
    """The items of all groups, each once, in the order of their first place in the groups.

    Popular items come early. So they have small numbers, which make a small page.
    """
    all_items = np.concatenate([_NONE, *item_groups])
    items_used, first_places = np.unique(all_items[all_items >= 0], return_index=True)
    return items_used[np.argsort(first_places)]


def _interleave(*columns: Numbers) -> list[int]:
    """The first of each column, then the second of each, and so on."""
    flat: list[int] = np.column_stack(columns).ravel().tolist()
    return flat


def _take_every(values: pl.Series, step: int) -> pl.Series:
    return values.gather_every(max(1, step))


def _select_lists(tables: RunTables, users: pl.Series) -> pl.LazyFrame:
    """The beginning of each user's list: user_id, rank, item, and reason.

    The reason is _BY_RULE, _POPULAR, or 0 for the model's own.
    """
    columns = tables.recommendations.collect_schema().names()
    reason = pl.lit(0)
    if "arm" in columns:
        # An experiment's control gets popular items.
        reason = pl.when(pl.col("arm") == "control").then(_POPULAR).otherwise(reason)
    if "reason" in columns:
        is_popular = pl.col("reason").str.starts_with("popular")
        own = pl.when(is_popular).then(_POPULAR).otherwise(_BY_RULE)
        is_other = pl.col("reason").is_not_null() & ~pl.col("reason").is_in([BECAUSE, NEW])
        reason = pl.when(is_other).then(own).otherwise(reason)
    return (
        tables.recommendations.filter(pl.col("rank") <= LIST)
        .select("user_id", "rank", item="item_id", reason=reason)
        .join(users.to_frame("user_id").lazy(), on="user_id", how="semi")
    )


def _select_histories(tables: RunTables, users: pl.Series) -> pl.LazyFrame:
    """Each user's items: user_id, item, day (since 1970), last (epoch seconds) and times."""
    return (
        tables.interactions.select(user_id=USER_ID, item=ITEM_ID, time=TIMESTAMP)
        .join(users.to_frame("user_id").lazy(), on="user_id", how="semi")
        .group_by("user_id", "item")
        .agg(day=pl.col("time").max() // DAY, last=pl.col("time").max(), times=pl.len())
    )


def _number_items(frame: pl.DataFrame, items: pl.Series) -> pl.DataFrame:
    """The frame with the column `column`: the index of each item in `items`."""
    return frame.with_columns(column=NumberedIds(items).find(frame.get_column("item")))


def _group_by_user(frame: pl.DataFrame, users: pl.Series) -> pl.DataFrame:
    """A row for each user, whose cells are lists of the user's values, in the order of the rows."""
    rows_by_user = frame.group_by("user_id", maintain_order=True).agg(pl.all())
    lists = users.to_frame("user_id").join(
        rows_by_user, on="user_id", how="left", maintain_order="left"
    )
    return lists.with_columns(pl.exclude("user_id").fill_null([]))


def _to_arrays(lists: pl.DataFrame, column: str) -> list[Numbers]:
    return [cells.cast(pl.Int64).to_numpy() for cells in lists.get_column(column)]


# Titles of more characters are cut.
TITLE = 160


def shorten_title(title: str | None) -> str | None:
    """The title in at most TITLE characters; None for a blank one."""
    if title is None or not title.strip():
        return None
    if len(title) <= TITLE:
        return title
    return title[: TITLE - 1] + "…"
