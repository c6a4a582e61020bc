"""The people whom the report lets one look at: their recent history beside their list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from batchrec_dagster.personalize.datasets import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.counts import Counts
from batchrec_dagster.reporting.explanations import strongest
from batchrec_dagster.reporting.published import Tables

MOST_PEOPLE = 2_500
HISTORY = 25
LIST = 25
# Titles are cut after so many characters: one that is longer is no title.
TITLE = 160
# With so many users at most is counted what goes with what; and with so many pairs of items in a
# history, over all of those users: that takes about two seconds.
MOST_COUNTED = 100_000
MOST_PAIRS = 300_000_000
DAY = 86_400


@dataclass(frozen=True)
class People:
    """Who can be looked at.

    served: users with a list; counted: users whose histories tell what goes with what; items: [id,
    title or None, users counted who have it]; people: [user id, interactions, history, list], where
    history is a flat [item, day, …], newest first, days since 1970, and list a flat [item, item
    that speaks most for it or -1, users counted who have both, …], best first; an item is its place
    in `items`.
    """

    served: int
    counted: int
    items: list[list[Any]]
    people: list[list[Any]]


def people(tables: Tables, counts: Counts, most: int = MOST_PEOPLE) -> People:
    """All users with a list, or every n-th by id so that there are at most `most`."""
    everyone = counts.served
    chosen = _every(everyone, -(-everyone.len() // most))
    counted_users = _countable(counts)
    lists, histories, counted_pairs = pl.collect_all(
        [
            _lists(tables, chosen),
            _histories(tables, chosen),
            _of(counted_users, tables).select("user_id", "item").unique(),
        ],
        engine="streaming",
    )
    histories = histories.sort("user_id", "last", "item", descending=[False, True, False])
    catalogue = (
        pl.concat([frame.select("item") for frame in (lists, histories, counted_pairs)])
        .unique()
        .sort("item")
        .with_row_index("number")
    )
    own = {
        "lists": _by_user(lists.sort("rank"), catalogue),
        "histories": _by_user(histories, catalogue),
    }
    ids = chosen.to_list()
    none = np.empty(0, np.int64)
    listed = [own["lists"].get(user, none) for user in ids]
    had = [own["histories"].get(user, none) for user in ids]
    matrix = _matrix(counted_pairs, counted_users, catalogue)
    reasons = strongest(matrix, had, listed)
    days = {
        user: (group.get_column("last") // DAY).to_list()
        for (user,), group in histories.group_by("user_id", maintain_order=True)
    }
    totals = dict(histories.group_by("user_id").agg(pl.col("times").sum()).iter_rows())
    numbering = _Numbering()
    shown = [
        [
            user,
            totals.get(user, 0),
            [
                value
                for item, day in zip(
                    items[:HISTORY].tolist(), days.get(user, [])[:HISTORY], strict=True
                )
                for value in (numbering.of(item), day)
            ],
            [
                value
                for item, because, both in zip(
                    places.tolist(), *(part.tolist() for part in reason), strict=True
                )
                for value in (numbering.of(item), numbering.of(because), both)
            ],
        ]
        for user, items, places, reason in zip(ids, had, listed, reasons, strict=True)
    ]
    return People(
        served=everyone.len(),
        counted=counted_users.len(),
        items=_described(numbering.used, catalogue, matrix, tables),
        people=shown,
    )


class _Numbering:
    """Numbers the items that are used, in order of use."""

    def __init__(self) -> None:
        self.used: dict[int, int] = {}

    def of(self, item: int) -> int:
        return -1 if item < 0 else self.used.setdefault(item, len(self.used))


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
    """Users to count with: all, or every n-th."""
    pairs = int((counts.users.get_column("interactions") ** 2).sum())
    step = max(-(-pairs // MOST_PAIRS), -(-counts.users.height // MOST_COUNTED))
    return _every(counts.users.get_column("user_id"), step)


def _by_user(pairs: pl.DataFrame, catalogue: pl.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    """Each user's items as their numbers in the catalogue, in the pairs' order."""
    numbered = pairs.join(catalogue, on="item", maintain_order="left")
    return {
        user: group.get_column("number").cast(pl.Int64).to_numpy()
        for (user,), group in numbered.group_by("user_id", maintain_order=True)
    }


def _matrix(pairs: pl.DataFrame, users: pl.Series, catalogue: pl.DataFrame) -> sparse.csr_array:
    rows = users.to_frame().with_row_index("row")
    numbered = pairs.join(rows, on="user_id").join(catalogue, on="item")
    places = (numbered.get_column("row").to_numpy(), numbered.get_column("number").to_numpy())
    ones = np.ones(numbered.height, np.int32)
    return sparse.csr_array((ones, places), shape=(users.len(), catalogue.height))


def _described(
    used: dict[int, int], catalogue: pl.DataFrame, matrix: sparse.csr_array, tables: Tables
) -> list[list[Any]]:
    ids = catalogue.get_column("item").gather(list(used))
    frame = ids.to_frame("item_id")
    if tables.titles is None:
        titles: list[str | None] = [None] * len(ids)
    else:
        titles = [
            shortened(title)
            for title in frame.join(tables.titles, on="item_id", how="left", maintain_order="left")
            .get_column("title")
            .to_list()
        ]
    users = np.asarray(matrix.sum(axis=0))[list(used)].tolist()
    return [[*row] for row in zip(ids.to_list(), titles, users, strict=True)]


def shortened(title: str | None) -> str | None:
    """The title, cut where it is too long to be read; None for a blank one."""
    if title is None or not title.strip():
        return None
    if len(title) <= TITLE:
        return title
    return title[: TITLE - 1] + "…"
