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
    table = published.read_rows("user_id", user).sort("rank")
    listed_items = table.get_column("item_id").to_list()
    with published.open_interactions() as (interactions, size):
        interactions_of_user = (
            interactions.filter(pl.col(USER_ID) == user)
            .collect(engine="streaming")
            .sort(TIMESTAMP, descending=True, maintain_order=True)
        )
        if not (interactions_of_user.height or listed_items):
            return None
        latest = (
            interactions_of_user.get_column(ITEM_ID)
            .unique(maintain_order=True)
            .head(MOST_EXPLAINING)
            .to_list()
        )
        explanations = _explain_list(_sample_users(interactions, size), latest, listed_items)
    first = interactions_of_user.head(HISTORY)
    titles = published.read_titles(
        [*first.get_column(ITEM_ID), *listed_items, *(item for item, _ in explanations)]
    )
    events = first.get_column(EVENT_TYPE) if EVENT_TYPE in first.columns else pl.Series([""])
    has_padding = bool(published.edition and published.edition.about.get("items_without_score"))
    types = events.to_list() if set(events) - {EVENT_TYPE_VALUE, ""} else [None] * first.height
    return UserDetails(
        pipeline=published.pipeline,
        user=user,
        interactions=interactions_of_user.height,
        history=[
            Interaction(_to_datetime(time), item, titles.get(item), event)
            for time, item, event in zip(first[TIMESTAMP], first[ITEM_ID], types, strict=True)
        ],
        recommendations=[
            ExplainedItem(rank, item, titles.get(item), score, because or None,
                        titles.get(because), users_with_both, has_padding and score is None)
            for (rank, item, score), (because, users_with_both) in zip(
                table.select("rank", "item_id", "score").iter_rows(), explanations, strict=True
            )
        ],
        titles=bool(titles),
    )  # fmt: skip


def find_item(published: PublishedResults, item: str) -> ItemDetails | None:
    """None if neither the table nor the interactions have the item. Raises StorageError."""
    rows = published.read_rows("item_id", item).sort("rank", "user_id")
    _, lists = published.count_rows_and_users()
    with published.open_interactions() as (interactions, size):
        totals = (
            interactions.filter(pl.col(ITEM_ID) == item)
            .select(pl.len(), users=pl.col(USER_ID).n_unique(), last=pl.col(TIMESTAMP).max())
            .collect(engine="streaming")
            .row(0, named=True)
        )
        if not (totals["len"] or rows.height):
            return None
        similar = find_similar_items(_sample_users(interactions, size), item, NEIGHBOURS)
    titles = published.read_titles([item, *(other for other, _ in similar)])
    return ItemDetails(
        pipeline=published.pipeline,
        item=item,
        title=titles.get(item),
        interactions=totals["len"],
        users=totals["users"],
        last=None if totals["last"] is None else _to_datetime(totals["last"]),
        in_lists=rows.height,
        lists=lists,
        mean_rank=rows.select(pl.col("rank").mean()).item(),
        first_users=rows.select("user_id", "rank").head(FIRST_USERS).to_dicts(),
        neighbours=[
            Neighbour(other, titles.get(other), users_with_both)
            for other, users_with_both in similar
        ],
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
    with published.open_interactions() as (interactions, _):
        matching_ids = interactions.filter(alike & ((length - len(name)).abs() <= 2)).select(
            text.unique()
        )
        ids = {id_.lower(): id_ for id_ in matching_ids.collect(engine="streaming").to_series()}
    return [ids[near] for near in difflib.get_close_matches(name.lower(), ids, n=3)]


def _sample_users(interactions: pl.LazyFrame, size: int) -> pl.LazyFrame:
    """user_id, item of all users; of every n-th if the interactions have too many bytes."""
    step = -(-size // MOST_COUNTED)
    if step > 1:
        interactions = interactions.filter(pl.col(USER_ID).hash() % step == 0)
    return interactions.select(user_id=USER_ID, item=ITEM_ID)


def _explain_list(
    pairs: pl.LazyFrame, history: list[str], listed_items: list[str]
) -> list[tuple[str, int]]:
    """For each item of the list the one that explains it best, and how many users have both; an
    empty text and 0 where none does, or what they are found with is not installed."""
    if not is_installed("report"):
        return [("", 0)] * len(listed_items)
    items = list(dict.fromkeys([*history, *listed_items]))
    matrix = build_user_item_matrix(pairs, pl.Series(items, dtype=pl.String))
    columns = {item: column for column, item in enumerate(items)}
    history_columns = np.array([columns[item] for item in history], np.int64)
    list_columns = np.array([columns[item] for item in listed_items], np.int64)
    [(because, users_with_both)], _ = find_best_explanations(
        matrix, [history_columns], [list_columns]
    )
    return [
        (items[column] if column >= 0 else "", int(count))
        for column, count in zip(because, users_with_both, strict=True)
    ]


def _to_datetime(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
