"""The users that the report's reader can look up: the recent history and the list of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.explanations.item_overlaps import (
    Indices,
    build_user_item_matrix,
    choose_counted_users,
    find_best_explanations,
)
from batchrec_dagster.explanations.list_reasons import BECAUSE, NEW
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.report_counts import ReportCounts
from batchrec_dagster.reporting.run_tables import RunTables
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
    users_counted = choose_counted_users(counts.users)
    lists, histories = pl.collect_all(
        [
            _select_lists(tables, users_shown),
            _select_histories(tables, pl.concat([users_shown, users_counted]).unique()),
        ],
        engine="streaming",
    )
    lists = lists.sort("user_id", "rank")
    pairs = _take_users(histories, users_counted).select("user_id", "item")
    histories = _take_users(histories, users_shown).sort(
        "user_id", "last", "item", descending=[False, True, False]
    )
    items = pl.concat([frame.get_column("item") for frame in (lists, histories, pairs)])
    items = items.unique().sort()
    matrix = build_user_item_matrix(pairs.lazy(), items)
    histories_by_user = _group_by_user(histories, items, users_shown)
    history_items = _to_arrays(histories_by_user, "column")
    lists_by_user = _group_by_user(lists, items, users_shown)
    listed_items = _to_arrays(lists_by_user, "column")
    explanations, neighbours_by_item = find_best_explanations(
        matrix, history_items, listed_items, near=NEIGHBOURS, most_items=MOST_ITEMS
    )
    explanations = _keep_reasons(explanations, _to_arrays(lists_by_user, "reason"))

    recent_items = [items_of_user[:HISTORY] for items_of_user in history_items]
    # The page shows explaining and neighbouring items by their titles, so it needs them too.
    explaining_items = [because for because, _ in explanations]
    neighbours = [
        np.array([neighbour for neighbour, _ in pairs_of_item], np.int64)
        for pairs_of_item in neighbours_by_item.values()
    ]
    items_used = _order_items([*recent_items, *listed_items, *explaining_items, *neighbours])
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
        for user, interactions, latest, days, listed, (because, users_with_both) in zip(
            users_shown,
            histories_by_user.get_column("times").list.sum(),
            recent_items,
            _to_arrays(histories_by_user, "day"),
            listed_items,
            explanations,
            strict=True,
        )
    ]
    described_items = _describe_items(
        tables,
        counts,
        ids=items.gather(items_used),
        users=np.asarray(matrix.sum(axis=0))[items_used].tolist(),
        neighbours=[
            _flatten_neighbours(neighbours_by_item.get(column, ()), places)
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


def _keep_reasons(
    explanations: list[tuple[Indices, Indices]], reasons: list[Indices]
) -> list[tuple[Indices, Indices]]:
    """The explanations of each list, in which an item with a reason of its own keeps that.

    The history explains only the model's own items.

    reasons: _BY_RULE or _POPULAR for each item of a list; 0 for those of the model.
    """
    return [
        (np.where(reason < 0, reason, because), np.where(reason < 0, 0, users_with_both))
        for (because, users_with_both), reason in zip(explanations, reasons, strict=True)
    ]


def _flatten_neighbours(neighbours: Sequence[tuple[int, int]], places: Indices) -> list[int]:
    """The place of each neighbour in People.items, followed by its number of users with both."""
    return [
        value
        for neighbour, users_with_both in neighbours
        for value in (int(places[neighbour]), users_with_both)
    ]


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


def _order_items(item_groups: list[Indices]) -> Indices:
    """The items of all groups, each once, in the order of their first place in the groups.

    Popular items come early. So they have small numbers, which make a small page.
    """
    all_items = np.concatenate([_NONE, *item_groups])
    items_used, first_places = np.unique(all_items[all_items >= 0], return_index=True)
    return items_used[np.argsort(first_places)]


def _interleave(*columns: Indices) -> list[int]:
    """The first of each column, then the second of each, and so on."""
    flat: list[int] = np.column_stack(columns).ravel().tolist()
    return flat


def _take_every(values: pl.Series, step: int) -> pl.Series:
    return values.gather_every(max(1, step))


def _take_users(rows: pl.DataFrame, users: pl.Series) -> pl.DataFrame:
    """The rows of these users."""
    return rows.join(users.to_frame("user_id"), on="user_id", how="semi")


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


def _group_by_user(frame: pl.DataFrame, items: pl.Series, users: pl.Series) -> pl.DataFrame:
    """A row for each user, whose cells are lists of the user's values, in the order of the rows.

    A further column `column` has the items' places in `items`.
    """
    columns = items.alias("item").to_frame().with_row_index("column").cast({"column": pl.Int64})
    rows_by_user = (
        frame.join(columns, on="item", maintain_order="left").group_by("user_id").agg(pl.all())
    )
    lists = users.to_frame("user_id").join(
        rows_by_user, on="user_id", how="left", maintain_order="left"
    )
    return lists.with_columns(pl.exclude("user_id").fill_null([]))


def _to_arrays(lists: pl.DataFrame, column: str) -> list[Indices]:
    return [cells.to_numpy() for cells in lists.get_column(column)]


# Titles of more characters are cut.
TITLE = 160


def shorten_title(title: str | None) -> str | None:
    """The title in at most TITLE characters; None for a blank one."""
    if title is None or not title.strip():
        return None
    if len(title) <= TITLE:
        return title
    return title[: TITLE - 1] + "…"
