"""The users that the report's reader can look up: recent history and list of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.explanations import (
    Indices,
    best_explanations,
    user_item_matrix,
)
from batchrec_dagster.reporting.published import Tables
from batchrec_dagster.reporting.statistics import Counts

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


def people(tables: Tables, counts: Counts, most: int = MOST_PEOPLE) -> People:
    """All users with a list, or every n-th by id so that there are at most `most`."""
    chosen = _every(counts.served, -(-counts.served.len() // most))
    counted = _countable(counts)
    lists, histories, pairs = pl.collect_all(
        [
            _lists(tables, chosen),
            _histories(tables, chosen),
            _of(counted, tables).select("user_id", "item").unique(),
        ],
        engine="streaming",
    )
    histories = histories.sort("user_id", "last", "item", descending=[False, True, False])
    items = pl.concat([frame.get_column("item") for frame in (lists, histories, pairs)])
    items = items.unique().sort()
    matrix = user_item_matrix(pairs.lazy(), items)
    had, listed = (
        _by_user(frame, items, chosen) for frame in (histories, lists.sort("user_id", "rank"))
    )
    explanations, near = best_explanations(
        matrix, _columns(had), _columns(listed), near=NEIGHBOURS, most_items=MOST_ITEMS
    )
    used: dict[int, int] = {}
    rows = [
        _person(*of_user, used) for of_user in zip(chosen, had, listed, explanations, strict=True)
    ]
    # What is near is shown by its title too.
    flat_near = {
        item: [value for other, both in found for value in (_number(other, used), both)]
        for item, found in near.items()
    }
    ids = items.gather(list(used))
    titles = [shortened(title) for title in tables.titles_of(ids)]
    users = np.asarray(matrix.sum(axis=0))[list(used)].tolist()
    lists_of = dict(counts.lists.select("item", "lists").iter_rows())
    columns = (
        ids.to_list(),
        titles,
        users,
        [lists_of.get(item, 0) for item in ids],
        [flat_near.get(column, []) for column in used],
        tables.images_of(ids),
        tables.links_of(ids),
    )
    return People(
        served=counts.served.len(),
        counted=counted.len(),
        items=[[*row] for row in zip(*columns, strict=True)],
        people=rows,
    )


def _person(
    user: str,
    history: pl.DataFrame,
    listed: pl.DataFrame,
    explanation: tuple[Indices, Indices],
    used: dict[int, int],
) -> list[Any]:
    """A row of People.people. used: the items' numbers so far in People.items, extended here."""

    latest = history.head(HISTORY)
    because, both = (part.tolist() for part in explanation)
    return [
        user,
        history.get_column("times").sum(),
        [
            value
            for item, last in latest.select("column", "last").iter_rows()
            for value in (_number(item, used), last // DAY)
        ],
        [
            value
            for item, cause, users in zip(listed.get_column("column"), because, both, strict=True)
            for value in (_number(item, used), _number(cause, used), users)
        ],
    ]


def _number(item: int, used: dict[int, int]) -> int:
    """The item's number in People.items, a new one if need be; -1 for no item."""
    return -1 if item < 0 else used.setdefault(item, len(used))


def _every(values: pl.Series, step: int) -> pl.Series:
    return values.gather_every(max(1, step))


def _of(users: pl.Series, tables: Tables) -> pl.LazyFrame:
    """user_id, item, time: the users' interactions."""
    return tables.interactions.select(user_id=USER_ID, item=ITEM_ID, time=TIMESTAMP).join(
        users.to_frame("user_id").lazy(), on="user_id", how="semi"
    )


def _lists(tables: Tables, users: pl.Series) -> pl.LazyFrame:
    """user_id, rank, item: the beginning of each user's list."""
    return (
        tables.recommendations.filter(pl.col("rank") <= LIST)
        .select("user_id", "rank", item="item_id")
        .join(users.to_frame("user_id").lazy(), on="user_id", how="semi")
    )


def _histories(tables: Tables, users: pl.Series) -> pl.LazyFrame:
    """user_id, item, last (epoch seconds), times: each user's items."""
    return (
        _of(users, tables)
        .group_by("user_id", "item")
        .agg(last=pl.col("time").max(), times=pl.len())
    )


def _countable(counts: Counts) -> pl.Series:
    """The users to count with: all, or every n-th by id."""
    pairs = int((counts.users.get_column("interactions") ** 2).sum())
    step = max(-(-pairs // MOST_PAIRS), -(-counts.users.height // MOST_COUNTED))
    return _every(counts.users.get_column("user_id"), step)


def _by_user(frame: pl.DataFrame, items: pl.Series, users: pl.Series) -> list[pl.DataFrame]:
    """Each user's rows in their order, with the item's index in `items` as `column`."""
    columns = items.alias("item").to_frame().with_row_index("column").cast({"column": pl.Int64})
    joined = frame.join(columns, on="item", maintain_order="left")
    groups = joined.partition_by("user_id", as_dict=True)
    return [groups.get((user,), joined.clear()) for user in users]


def _columns(frames: list[pl.DataFrame]) -> list[Indices]:
    return [frame.get_column("column").to_numpy() for frame in frames]


# Longer titles are cut.
TITLE = 160


def shortened(title: str | None) -> str | None:
    """The title, cut after 160 characters; None for a blank one."""
    if title is None or not title.strip():
        return None
    if len(title) <= TITLE:
        return title
    return title[: TITLE - 1] + "…"
