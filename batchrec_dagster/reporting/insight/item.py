"""A pipeline's data about one item: the users who get it, and the items that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.subjects import ITEMS
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.reporting.insight.explanations import is_counted
from batchrec_dagster.reporting.insight.person import NO_INTERACTIONS
from batchrec_dagster.reporting.insight.published_tables import (
    find_similar_items,
    open_interactions,
    read_rows,
    read_titles,
    scan_titles,
)
from batchrec_dagster.steps.lists.item_pairs import number_histories, pair_histories

# The maximum numbers of users, of items that go with the item, and of title matches to show.
FIRST_USERS = 10
NEIGHBOURS = 10
MOST_MATCHES = 20


@dataclass(frozen=True)
class FirstUser:
    """A user with the item on their list."""

    user_id: str
    rank: int


@dataclass(frozen=True)
class Neighbour:
    """An item that shares users with another item."""

    item: str
    title: str | None
    users_with_both: int
    """The number of counted users who have both items."""


@dataclass(frozen=True)
class SimilarItem:
    """An item on the published list of similar items."""

    rank: int
    item: str
    title: str | None
    score: float | None
    """The score; None if the recipe gives no scores, or if a rule put the item there."""


@dataclass(frozen=True)
class ItemDetails:
    """A pipeline's data about an item."""

    pipeline: str
    item: str
    title: str | None
    interactions: int
    users: int
    """The number of users who have the item."""
    last: datetime | None
    """The time of the last interaction, in UTC; None if there is no interaction."""
    counted: int
    """The number of users that were counted to find the neighbours."""
    in_lists: int
    """The number of lists that contain the item."""
    lists: int
    """The number of lists."""
    mean_rank: float | None
    """The item's mean rank in the lists that contain it; None if no list contains it."""
    first_users: tuple[FirstUser, ...]
    """The users for whom the item ranks highest."""
    neighbours: tuple[Neighbour, ...]
    """The items that overlap most in users with the item, best first."""
    similar_items: tuple[SimilarItem, ...] | None
    """The published list of similar items, best first; None if the pipeline publishes none."""


@dataclass(frozen=True)
class TitledItem:
    """An item with the searched text in its title."""

    item: str
    title: str


@dataclass(frozen=True)
class ItemMatches:
    """The items of a pipeline with the searched text in their titles."""

    pipeline: str
    text: str
    total: int
    """The number of all matching items."""
    items: tuple[TitledItem, ...]
    """The first matching items, sorted by title."""


def find_item(files: ListFiles, item: str) -> ItemDetails | None:
    """Return the details of an item; None if neither the lists nor the interactions have it.

    Raises UserError.
    """
    edition = files.editions.live()
    assert edition is not None, "only lists that are published are looked up"
    rows = read_rows(files, edition, "item_id", item).sort("rank", "user_id")
    with open_interactions(files) as opened:
        interactions = NO_INTERACTIONS if opened is None else opened
        totals = (
            interactions.filter(pl.col(ITEM_ID) == item)
            .select(pl.len(), users=pl.col(USER_ID).n_unique(), last=pl.col(TIMESTAMP).max())
            .collect(engine="streaming")
            .row(0, named=True)
        )
        if not (totals["len"] or rows.height):
            return None
        users = edition.data.users if edition.data is not None else 0
        histories = interactions.select(user_id=USER_ID, item=ITEM_ID).filter(is_counted(users))
        nearest, counted = _find_neighbours(histories, item)
    listed = _read_similar_items(files, item)
    similar_ids = [] if listed is None else listed.get_column(ITEMS.member_column).to_list()
    titles = read_titles(files, [item, *nearest.get_column("other"), *similar_ids])
    return ItemDetails(
        pipeline=files.keys.address,
        item=item,
        title=titles.get(item),
        interactions=totals["len"],
        users=totals["users"],
        last=None if totals["last"] is None else datetime.fromtimestamp(totals["last"], UTC),
        counted=counted,
        in_lists=rows.height,
        lists=edition.users or 0,
        mean_rank=rows.select(pl.col("rank").mean()).item(),
        first_users=tuple(
            FirstUser(user, rank)
            for user, rank in rows.select("user_id", "rank").head(FIRST_USERS).iter_rows()
        ),
        neighbours=tuple(
            Neighbour(other, titles.get(other), users_with_both)
            for other, users_with_both in nearest.select("other", "both").iter_rows()
        ),
        similar_items=None
        if listed is None
        else tuple(
            SimilarItem(rank, other, titles.get(other), score)
            for rank, other, score in listed.select(
                "rank", ITEMS.member_column, "score"
            ).iter_rows()
        ),
    )


def _find_neighbours(histories: pl.LazyFrame, item: str) -> tuple[pl.DataFrame, int]:
    """Return the items that overlap most in users with the item, and the number of counted users.

    The table has the columns other (an item) and both (the users with both items), best first.

    histories: the columns user_id and item of the counted users.
    """
    users, items = (
        frame.to_series().sort()
        for frame in pl.collect_all(
            [histories.select(pl.col(name).unique()) for name in ("user_id", "item")],
            engine="streaming",
        )
    )
    # This is empty if no counted user had the item.
    of_item = (items == item).arg_true().cast(pl.UInt32)
    pairs = pair_histories(number_histories(histories, users, items), len(users), of_item)
    own_pairs = pairs.filter(pl.col("item").is_in(of_item.implode()))
    nearest = own_pairs.sort("score", "other", descending=[True, False])
    named = nearest.head(NEIGHBOURS).with_columns(other=pl.lit(items).gather("other"))
    return named.select("other", "both"), len(users)


def _read_similar_items(files: ListFiles, item: str) -> pl.DataFrame | None:
    """Return the item's published list of similar items; None if the pipeline publishes none."""
    similar_items = find_similar_items(files)
    edition = similar_items.editions.live()
    return None if edition is None else read_rows(similar_items, edition, ITEMS.column, item)


def find_items_by_title(files: ListFiles, text: str) -> ItemMatches | None:
    """Return the items of the pipeline with this text in their titles; None if there are none.

    Upper and lower case do not matter. If no title has the text, returns the items with all words
    of the text in their titles. Raises UserError.
    """
    phrase = " ".join(text.lower().split())
    lowercase = pl.col("title").str.to_lowercase()
    for parts in ([phrase], phrase.split()):
        has_parts = [lowercase.str.contains(part, literal=True) for part in parts if part]
        if not has_parts:
            continue
        matches = scan_titles(files).filter(has_parts).collect(engine="streaming")
        if matches.height:
            first = matches.sort("title", "item_id").head(MOST_MATCHES)
            items = tuple(TitledItem(item, title) for item, title in first.iter_rows())
            return ItemMatches(files.keys.pipeline, text, matches.height, items)
    return None
