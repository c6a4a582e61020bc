"""Looks up one user or one item in the published results."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.preparation.rules import EVENT_TYPE_VALUE
from batchrec_dagster.reporting.explanations import (
    build_user_item_matrix,
    find_best_explanations,
    find_similar_items,
)
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.storage.extras import is_installed

HISTORY = 25
FIRST_USERS = 10
NEIGHBOURS = 10
# Bytes of interactions to count for explanations, a second or two; beyond, a sample of the users.
MOST_COUNTED = 256 * 1024 * 1024
# Only so many of a user's latest items can explain a recommendation.
MOST_EXPLAINING = 1_000


@dataclass(frozen=True)
class Interaction:
    """A user's interaction with an item; time in UTC, event None if there is only one type."""

    time: datetime
    item: str
    title: str | None
    event: str | None


@dataclass(frozen=True)
class ExplainedItem:
    """An item of a user's list, the item of their history that explains it best, and how many of
    the counted users have both; score None if the recipe has none.

    padding: a popular item without a score, which Personalize added to a short list.
    """

    rank: int
    item: str
    title: str | None
    score: float | None
    because: str | None
    because_title: str | None
    users_with_both: int
    padding: bool = False


@dataclass(frozen=True)
class UserDetails:
    """A user: number of interactions, the latest ones, newest first, and the list, best first.

    titles: whether any item shown has a title.
    """

    pipeline: str
    user: str
    interactions: int
    history: list[Interaction]
    recommendations: list[ExplainedItem]
    titles: bool


@dataclass(frozen=True)
class Neighbour:
    """An item that shares users with another; how many of the counted users have both."""

    item: str
    title: str | None
    users_with_both: int


@dataclass(frozen=True)
class ItemDetails:
    """An item: its interactions and users, the lists with it, and similar items.

    in_lists of `lists` contain it, at a mean rank; first_users: user_id and rank where it ranks
    highest.
    """

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


def find_user(published: PublishedResults, user: str) -> UserDetails | None:
    """None if neither the table nor the interactions have the user. Raises StorageError."""
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
        latest = had.get_column(ITEM_ID).unique(maintain_order=True).head(MOST_EXPLAINING).to_list()
        reasons = _explanations(_sample(interactions, size), latest, listed)
    first = had.head(HISTORY)
    titles = published.titles([*first.get_column(ITEM_ID), *listed, *(item for item, _ in reasons)])
    events = first.get_column(EVENT_TYPE) if EVENT_TYPE in first.columns else pl.Series([""])
    padded = bool(published.edition and published.edition.about.get("items_without_score"))
    types = events.to_list() if set(events) - {EVENT_TYPE_VALUE, ""} else [None] * first.height
    return UserDetails(
        pipeline=published.pipeline,
        user=user,
        interactions=had.height,
        history=[
            Interaction(_time(time), item, titles.get(item), event)
            for time, item, event in zip(first[TIMESTAMP], first[ITEM_ID], types, strict=True)
        ],
        recommendations=[
            ExplainedItem(rank, item, titles.get(item), score, because or None,
                        titles.get(because), both, padded and score is None)
            for (rank, item, score), (because, both) in zip(
                table.select("rank", "item_id", "score").iter_rows(), reasons, strict=True
            )
        ],
        titles=bool(titles),
    )  # fmt: skip


def find_item(published: PublishedResults, item: str) -> ItemDetails | None:
    """None if neither the table nor the interactions have the item. Raises StorageError."""
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
        similar = find_similar_items(_sample(interactions, size), item, NEIGHBOURS)
    titles = published.titles([item, *(other for other, _ in similar)])
    return ItemDetails(
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
        neighbours=[Neighbour(other, titles.get(other), both) for other, both in similar],
        titles=bool(titles),
    )


def find_similar_ids(published: PublishedResults, what: str, name: str) -> list[str]:
    """Up to three ids in the interactions that are spelled like this user's or item's.

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


def _sample(interactions: pl.LazyFrame, size: int) -> pl.LazyFrame:
    """user_id, item of all users; of every n-th if the interactions have too many bytes."""
    every = -(-size // MOST_COUNTED)
    if every > 1:
        interactions = interactions.filter(pl.col(USER_ID).hash() % every == 0)
    return interactions.select(user_id=USER_ID, item=ITEM_ID)


def _explanations(pairs: pl.LazyFrame, had: list[str], listed: list[str]) -> list[tuple[str, int]]:
    """For each item of the list the one that explains it best, and how many users have both; an
    empty text and 0 where none does, or what they are found with is not installed."""
    if not is_installed("report"):
        return [("", 0)] * len(listed)
    items = list(dict.fromkeys([*had, *listed]))
    matrix = build_user_item_matrix(pairs, pl.Series(items, dtype=pl.String))
    columns = {item: column for column, item in enumerate(items)}
    history, wanted = (np.array([columns[i] for i in ids], np.int64) for ids in (had, listed))
    [(because, both)], _ = find_best_explanations(matrix, [history], [wanted])
    return [
        (items[column] if column >= 0 else "", int(count))
        for column, count in zip(because, both, strict=True)
    ]


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
