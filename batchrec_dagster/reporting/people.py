"""The users that the report's reader can look up: recent history and list of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.explanations import (
    Indices,
    build_user_item_matrix,
    find_best_explanations,
)
from batchrec_dagster.reporting.published import RunTables
from batchrec_dagster.reporting.statistics import ReportCounts

MOST_PEOPLE = 2_500
HISTORY = 25
LIST = 25
# Bounds for counting which items share users, about two seconds of work: the number of users, and
# the sum over users of their squared number of interactions.
MOST_COUNTED = 100_000
MOST_PAIRS = 300_000_000
# Items with neighbours in the report, and how many.
MOST_ITEMS = 5_000
NEIGHBOURS = 5
DAY = 86_400
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class People:
    """The users in the report, in the compact form that its script reads.

    served: users with a list; counted: users whose histories count for the explanations. items:
    [id, title or None, how many of the counted users have it, how many lists have it, neighbours,
    image, link]; neighbours is, for items in lists, a flat [item, counted users who have both, …]
    of those whose audiences overlap most, best first; image and link are addresses or None.
    people: [user id, interactions, history, list]; history is a flat [item, day, …], newest first,
    in days since 1970; list a flat [item, item that explains it or -1, counted users who have
    both, …], best first. An item is its index in `items`.
    """

    served: int
    counted: int
    items: list[list[Any]]
    people: list[list[Any]]


def collect_people(tables: RunTables, counts: ReportCounts, most: int = MOST_PEOPLE) -> People:
    """All users with a list, or every n-th by id so that there are at most `most`."""
    users_shown = _take_every(counts.served, -(-counts.served.len() // most))
    users_counted = _choose_counted_users(counts)
    lists, histories, pairs = pl.collect_all(
        [
            _select_lists(tables, users_shown),
            _select_histories(tables, users_shown),
            _select_interactions(users_counted, tables).select("user_id", "item").unique(),
        ],
        engine="streaming",
    )
    histories = histories.sort("user_id", "last", "item", descending=[False, True, False])
    items = pl.concat([frame.get_column("item") for frame in (lists, histories, pairs)])
    items = items.unique().sort()
    matrix = build_user_item_matrix(pairs.lazy(), items)
    histories_by_user, lists_by_user = (
        _group_by_user(frame, items, users_shown)
        for frame in (histories, lists.sort("user_id", "rank"))
    )
    history_items, listed_items = (
        _to_arrays(histories_by_user, "column"),
        _to_arrays(lists_by_user, "column"),
    )
    explained, neighbours_by_item = find_best_explanations(
        matrix, history_items, listed_items, near=NEIGHBOURS, most_items=MOST_ITEMS
    )
    # What is near is shown by its title too.
    neighbours = [
        np.array([other for other, _ in pairs_of_item], np.int64)
        for pairs_of_item in neighbours_by_item.values()
    ]
    recent_items = [items_of_user[:HISTORY] for items_of_user in history_items]
    items_used = _order_items(
        [*recent_items, *listed_items, *(because for because, _ in explained), *neighbours]
    )
    # Their numbers in People.items; the last is that of no item, -1.
    numbers = np.full(len(items) + 1, -1)
    numbers[items_used] = np.arange(len(items_used))
    columns_of_users = (
        histories_by_user.get_column("times").list.sum(),
        recent_items,
        _to_arrays(histories_by_user, "day"),
    )
    rows = [
        [
            user,
            times,
            _interleave(numbers[latest], days[: len(latest)]),
            _interleave(numbers[of_list], *why),
        ]
        for user, times, latest, days, of_list, why in zip(
            users_shown,
            *columns_of_users,
            listed_items,
            [(numbers[because], both) for because, both in explained],
            strict=True,
        )
    ]
    flat_near = {
        item: [value for other, both in pairs_of_item for value in (int(numbers[other]), both)]
        for item, pairs_of_item in neighbours_by_item.items()
    }
    ids, users = items.gather(items_used), np.asarray(matrix.sum(axis=0))[items_used].tolist()
    near_used = [flat_near.get(column, []) for column in items_used.tolist()]
    return People(
        served=counts.served.len(),
        counted=users_counted.len(),
        items=_describe_items(tables, counts, ids, users, near_used),
        people=rows,
    )


def _describe_items(
    tables: RunTables, counts: ReportCounts, ids: pl.Series, users: list[int], near: list[list[int]]
) -> list[list[Any]]:
    lists_of = dict(counts.lists.select("item", "lists").iter_rows())
    columns = (
        ids.to_list(),
        [shorten_title(title) for title in tables.look_up(ids, "title")],
        users,
        [lists_of.get(item, 0) for item in ids],
        near,
        tables.look_up(ids, "image"),
        tables.look_up(ids, "link"),
    )
    return [[*row] for row in zip(*columns, strict=True)]


def _order_items(item_groups: list[Indices]) -> Indices:
    """The items that are shown, those shown first before others: popular ones have low numbers,
    which make a small page."""
    all_items = np.concatenate([_NONE, *item_groups])
    items_used, first_places = np.unique(all_items[all_items >= 0], return_index=True)
    return items_used[np.argsort(first_places)]


def _interleave(*columns: Indices) -> list[int]:
    """The first of each column, then the second of each, and so on."""
    flat: list[int] = np.column_stack(columns).ravel().tolist()
    return flat


def _take_every(values: pl.Series, step: int) -> pl.Series:
    return values.gather_every(max(1, step))


def _select_interactions(users: pl.Series, tables: RunTables) -> pl.LazyFrame:
    """user_id, item, time: the users' interactions."""
    return tables.interactions.select(user_id=USER_ID, item=ITEM_ID, time=TIMESTAMP).join(
        users.to_frame("user_id").lazy(), on="user_id", how="semi"
    )


def _select_lists(tables: RunTables, users: pl.Series) -> pl.LazyFrame:
    """user_id, rank, item: the beginning of each user's list."""
    return (
        tables.recommendations.filter(pl.col("rank") <= LIST)
        .select("user_id", "rank", item="item_id")
        .join(users.to_frame("user_id").lazy(), on="user_id", how="semi")
    )


def _select_histories(tables: RunTables, users: pl.Series) -> pl.LazyFrame:
    """user_id, item, day (since 1970), last (epoch seconds), times: each user's items."""
    return (
        _select_interactions(users, tables)
        .group_by("user_id", "item")
        .agg(day=pl.col("time").max() // DAY, last=pl.col("time").max(), times=pl.len())
    )


def _choose_counted_users(counts: ReportCounts) -> pl.Series:
    """The users to count with: all, or every n-th by id."""
    pairs = int((counts.users.get_column("interactions") ** 2).sum())
    step = max(-(-pairs // MOST_PAIRS), -(-counts.users.height // MOST_COUNTED))
    return _take_every(counts.users.get_column("user_id"), step)


def _group_by_user(frame: pl.DataFrame, items: pl.Series, users: pl.Series) -> pl.DataFrame:
    """A row for each user, whose cells are lists of the user's rows in their order, with the item's
    index in `items` as `column`."""
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


# Longer titles are cut.
TITLE = 160


def shorten_title(title: str | None) -> str | None:
    """The title, cut after 160 characters; None for a blank one."""
    if title is None or not title.strip():
        return None
    if len(title) <= TITLE:
        return title
    return title[: TITLE - 1] + "…"
