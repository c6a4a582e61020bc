"""One user, or one item: what the storage tells of it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from batchrec_dagster.personalize.datasets import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.preparation.rules import EVENT_TYPE_VALUE
from batchrec_dagster.reporting.explanations import DISCOUNT, strongest
from batchrec_dagster.reporting.published import Published

HISTORY = 25
FIRST_USERS = 10
NEIGHBOURS = 10
# As many bytes of interactions are counted with at most: a second's work or two. Of more, every
# n-th user tells what goes with what.
MOST_COUNTED = 256 * 1024 * 1024
# As many of a user's latest items can speak for what they get.
MOST_SPEAKING = 1_000


@dataclass(frozen=True)
class Interaction:
    """A user's interaction with an item. `time` is in UTC; `event` None where there is only one
    kind."""

    time: datetime
    item: str
    title: str | None
    event: str | None


@dataclass(frozen=True)
class Recommended:
    """An item of a user's list; the item of their history that speaks most for it, and how many of
    the users counted have both. `score` is None where the recipe gives none."""

    rank: int
    item: str
    title: str | None
    score: float | None
    because: str | None
    because_title: str | None
    users_with_both: int


@dataclass(frozen=True)
class Person:
    """A user's latest interactions, newest first, of how many in all, and their list, best
    first. `titles`: whether the pipeline has any."""

    pipeline: str
    user: str
    interactions: int
    history: list[Interaction]
    recommendations: list[Recommended]
    titles: bool


@dataclass(frozen=True)
class Neighbour:
    """An item that users of another have too; of those counted, so many have both."""

    item: str
    title: str | None
    users_with_both: int


@dataclass(frozen=True)
class Item:
    """Who had an item, and who gets it: in how many of how many lists it stands, its mean rank
    there, the users who get it first; what goes with it."""

    pipeline: str
    item: str
    title: str | None
    interactions: int
    users: int
    last: datetime | None
    in_lists: int
    lists: int
    mean_rank: float | None
    first_users: list[dict[str, Any]]
    neighbours: list[Neighbour]
    titles: bool


def person(published: Published, user: str) -> Person | None:
    """None where neither the table nor the interactions have the user. Raises StorageError."""
    table = published.rows("user_id", user).sort("rank")
    listed = table.get_column("item_id").to_list()
    with published.interactions() as (interactions, size):
        had = (
            interactions.filter(pl.col(USER_ID) == user)
            .collect(engine="streaming")
            .sort(TIMESTAMP, descending=True, maintain_order=True)
        )
        if not (had.height or listed):
            return None
        latest = had.get_column(ITEM_ID).unique(maintain_order=True).head(MOST_SPEAKING).to_list()
        reasons = _reasons(_some_users(interactions, size), latest, listed)
    first = had.head(HISTORY)
    titles = published.titles([*first.get_column(ITEM_ID), *listed, *(item for item, _ in reasons)])
    events = first.get_column(EVENT_TYPE) if EVENT_TYPE in first.columns else pl.Series([""])
    told = events.to_list() if set(events) - {EVENT_TYPE_VALUE, ""} else [None] * first.height
    return Person(
        pipeline=published.pipeline,
        user=user,
        interactions=had.height,
        history=[
            Interaction(_time(time), item, titles.get(item), event)
            for time, item, event in zip(first[TIMESTAMP], first[ITEM_ID], told, strict=True)
        ],
        recommendations=[
            Recommended(rank, item, titles.get(item), score, because or None,
                        titles.get(because), both)
            for (rank, item, score), (because, both) in zip(
                table.select("rank", "item_id", "score").iter_rows(), reasons, strict=True
            )
        ],
        titles=bool(titles),
    )  # fmt: skip


def item(published: Published, item: str) -> Item | None:
    """None where neither the table nor the interactions have the item. Raises StorageError."""
    shown = published.rows("item_id", item).sort("rank", "user_id")
    _, lists = published.size()
    with published.interactions() as (interactions, size):
        had = (
            interactions.filter(pl.col(ITEM_ID) == item)
            .select(pl.len(), users=pl.col(USER_ID).n_unique(), last=pl.col(TIMESTAMP).max())
            .collect(engine="streaming")
            .row(0, named=True)
        )
        if not (had["len"] or shown.height):
            return None
        beside = _beside(_some_users(interactions, size), item)
    titles = published.titles([item, *(other for other, _ in beside)])
    return Item(
        pipeline=published.pipeline,
        item=item,
        title=titles.get(item),
        interactions=had["len"],
        users=had["users"],
        last=None if had["last"] is None else _time(had["last"]),
        in_lists=shown.height,
        lists=lists,
        mean_rank=shown.select(pl.col("rank").mean()).item(),
        first_users=shown.select("user_id", "rank").head(FIRST_USERS).to_dicts(),
        neighbours=[Neighbour(other, titles.get(other), both) for other, both in beside],
        titles=bool(titles),
    )


def nearest(published: Published, what: str, name: str) -> list[str]:
    """Up to three ids in the interactions that are spelled like this user or item.

    Only ids with the same two first letters are compared. Raises StorageError.
    """
    column = USER_ID if what == "user" else ITEM_ID
    text = pl.col(column)
    alike = text.str.to_lowercase().str.starts_with(name[:2].lower())
    length = text.str.len_chars().cast(pl.Int64)
    with published.interactions() as (interactions, _):
        found = interactions.filter(alike & ((length - len(name)).abs() <= 2)).select(text.unique())
        ids = {each.lower(): each for each in found.collect(engine="streaming").to_series()}
    return [ids[near] for near in difflib.get_close_matches(name.lower(), ids, n=3)]


def _some_users(interactions: pl.LazyFrame, size: int) -> pl.LazyFrame:
    """user, item of all users or, where there are too many, of every n-th."""
    every = -(-size // MOST_COUNTED)
    if every > 1:
        interactions = interactions.filter(pl.col(USER_ID).hash() % every == 0)
    return interactions.select(user=USER_ID, item=ITEM_ID)


def _reasons(pairs: pl.LazyFrame, had: list[str], listed: list[str]) -> list[tuple[str, int]]:
    """For each item of a list the one that speaks most for it, and how many users have both; an
    empty text and 0 where nothing does."""
    items = list(dict.fromkeys([*had, *listed]))
    numbers = pl.DataFrame({"item": items}, schema={"item": pl.String}).with_row_index("number")
    found = pairs.join(numbers.lazy(), on="item").unique().collect(engine="streaming")
    rows = found.get_column("user").rank("dense").cast(pl.Int64).to_numpy()
    columns = found.get_column("number").to_numpy()
    shape = (int(rows.max(initial=0)) + 1, len(items))
    matrix = sparse.csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)
    places = {item: place for place, item in enumerate(items)}
    asked = [np.array([places[item] for item in some], np.int64) for some in (had, listed)]
    ((because, both),) = strongest(matrix, [asked[0]], [asked[1]])
    return [
        (items[place] if place >= 0 else "", int(count))
        for place, count in zip(because, both, strict=True)
    ]


def _beside(pairs: pl.LazyFrame, item: str) -> list[tuple[str, int]]:
    """What speaks most for the item, by the measure of `evidence`, and how many users have both."""
    users = pl.col("user").n_unique()
    owners = pairs.filter(pl.col("item") == item).select("user").unique()
    both = pairs.join(owners, on="user", how="semi").group_by("item").agg(both=users)
    counted = (
        pairs.group_by("item")
        .agg(users=users)
        .join(both, on="item")
        .filter(pl.col("item") != item)
        .with_columns(
            speaks=pl.col("both") / pl.col("users").sqrt() * pl.col("both")
            / (pl.col("both") + DISCOUNT)
        )
        .sort("speaks", "item", descending=[True, False])
        .head(NEIGHBOURS)
    )  # fmt: skip
    return counted.select("item", "both").collect(engine="streaming").rows()


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
