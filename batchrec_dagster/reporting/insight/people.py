"""The people on the page: their newest history, their list, and what explains the list.

The page has at most 200 people, and the people that the declaration names. `batchrec show` shows
everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config.list_columns import REASON_ITEM
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.insight.explanations import (
    PastInteractions,
    explain_lists,
    name_reason,
)
from batchrec_dagster.reporting.insight.published_tables import read_users_with_lists
from batchrec_dagster.reporting.insight.titles import shorten_title

MOST_PEOPLE = 200
# The maximum number of items of a history, and of a list, to show.
HISTORY_SHOWN, LIST_SHOWN = 10, 25


class ShownItem(NamedTuple):
    """An item on the page."""

    id: str
    title: str | None
    link: str | None
    """The address of the item's page, which begins with https; None if there is none."""
    image: str | None
    """The address of the item's picture, which begins with https; None if there is none."""


class HadItem(NamedTuple):
    """An item of a person's history."""

    item: int
    """The item's index in `People.items`."""
    day: str
    """The day of the person's last interaction with the item.

    It is empty if the interactions have no times.
    """


class ExplainedItem(NamedTuple):
    """An item of a person's list."""

    item: int
    """The item's index in `People.items`."""
    because: int | None
    """The index of the item in the history that explains this item; None if there is none."""
    reason: str
    """The reason in a word, if the history does not explain the item; empty if it is not known."""


class Person(NamedTuple):
    """A person on the page."""

    user: str
    interactions: int
    history: tuple[HadItem, ...]
    """The items of the history, newest first."""
    listed: tuple[ExplainedItem, ...]
    """The items of the list, best first."""


class People(BaseModel, frozen=True):
    """The people on the page."""

    served: int = 0
    """The number of people who have a list."""
    counted: int = 0
    """The number of people whose histories explain the lists.

    It is 0 if the lists themselves say why an item is there.
    """
    items: tuple[ShownItem, ...] = ()
    people: tuple[Person, ...] = ()
    """The people, sorted by id."""


@dataclass(frozen=True)
class PeopleTables:
    """The tables that people are read from.

    Ids are text in all tables.
    """

    lists: pl.LazyFrame
    """The published lists: user_id, rank, item_id, and optional columns."""
    histories: PastInteractions
    """The interactions of the shown people, and of all other people."""
    titles: pl.LazyFrame | None = None
    """The columns item_id, title and, if they are declared, image and link.

    Titles, images and links may be null.
    """


def collect_people(tables: PeopleTables, named: Sequence[str] = ()) -> People:
    """Return the people to show: all people with a list, or every n-th by id.

    There are at most MOST_PEOPLE, and the named people.

    named: the ids of people to include if they have a list.
    """
    served = read_users_with_lists(tables.lists).sort()
    sample = served.gather_every(max(1, -(-len(served) // MOST_PEOPLE)))
    wanted = pl.concat([sample, pl.Series(named, dtype=pl.String)])
    users_shown = served.filter(served.is_in(wanted.implode()))
    lists = _read_lists(tables.lists, users_shown)
    had = _read_histories(tables.histories.interactions, users_shown)
    counted = 0
    if REASON_ITEM in lists.columns:
        explained = lists.rename({REASON_ITEM: "because"})
    else:
        explained, counted = explain_lists(lists, had, users_shown, tables.histories)
    return _describe_people(users_shown, explained, had, tables.titles).model_copy(
        update={"served": len(served), "counted": counted}
    )


def _read_lists(lists: pl.LazyFrame, users: pl.Series) -> pl.DataFrame:
    """Return the top of each person's list: user_id, rank, item_id, reason, perhaps reason_item."""
    columns = lists.collect_schema().names()
    explaining = [REASON_ITEM] if REASON_ITEM in columns else []
    return (
        lists.filter(pl.col("rank") <= LIST_SHOWN)
        .join(users.to_frame("user_id").lazy(), on="user_id", how="semi")
        .select("user_id", "rank", "item_id", *explaining, reason=name_reason(columns))
        .collect(engine="streaming")
        .sort("user_id", "rank")
    )


def _read_histories(interactions: pl.LazyFrame, users: pl.Series) -> pl.DataFrame:
    """Return all interactions of these people: USER_ID, ITEM_ID, TIMESTAMP, perhaps EVENT_TYPE."""
    names = interactions.collect_schema().names()
    events = [EVENT_TYPE] if EVENT_TYPE in names else []
    return (
        interactions.select(USER_ID, ITEM_ID, TIMESTAMP, *events)
        .join(users.to_frame(USER_ID).lazy(), on=USER_ID, how="semi")
        .collect(engine="streaming")
    )


def _describe_people(
    users: pl.Series, lists: pl.DataFrame, had: pl.DataFrame, titles: pl.LazyFrame | None
) -> People:
    """Return the people with their histories and lists."""
    latest = (
        had.group_by(USER_ID, ITEM_ID)
        .agg(time=pl.col(TIMESTAMP).max())
        .sort(USER_ID, "time", ITEM_ID, descending=[False, True, False])
        .group_by(USER_ID, maintain_order=True)
        .head(HISTORY_SHOWN)
    )
    ids = pl.concat(
        [latest.get_column(ITEM_ID), lists.get_column("item_id"), lists.get_column("because")]
    )
    ids = ids.drop_nulls().unique(maintain_order=True)
    indexes = {item: index for index, item in enumerate(ids)}
    has_times = had.get_column(TIMESTAMP).n_unique() > 1
    histories: dict[str, list[HadItem]] = {}
    for user, item, time in latest.iter_rows():
        day = f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}" if has_times else ""
        histories.setdefault(user, []).append(HadItem(indexes[item], day))
    listed: dict[str, list[ExplainedItem]] = {}
    for user, item, because, reason in lists.select(
        "user_id", "item_id", "because", "reason"
    ).iter_rows():
        listed.setdefault(user, []).append(
            ExplainedItem(indexes[item], indexes.get(because), reason)
        )
    interactions = dict(had.group_by(USER_ID).len().iter_rows())
    return People(
        items=tuple(_describe_items(ids, titles)),
        people=tuple(
            Person(
                user,
                interactions.get(user, 0),
                tuple(histories.get(user, ())),
                tuple(listed.get(user, ())),
            )
            for user in users
        ),
    )


def _describe_items(ids: pl.Series, titles: pl.LazyFrame | None) -> list[ShownItem]:
    """Return the items with these ids, in the order of the ids."""
    if titles is None:
        return [ShownItem(item, None, None, None) for item in ids]
    rows = titles.filter(pl.col("item_id").is_in(ids.implode())).collect(engine="streaming")
    known: dict[str, dict[str, Any]] = {row["item_id"]: row for row in rows.iter_rows(named=True)}
    return [
        ShownItem(
            item,
            shorten_title(known.get(item, {}).get("title")),
            _keep_safe(known.get(item, {}).get("link")),
            _keep_safe(known.get(item, {}).get("image")),
        )
        for item in ids
    ]


def _keep_safe(address: str | None) -> str | None:
    """Return the address if it begins with https, else None.

    Any other address may run a script, or be overheard.
    """
    return address if address is not None and address.startswith("https://") else None
