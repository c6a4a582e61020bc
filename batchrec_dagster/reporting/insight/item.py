"""What a pipeline knows of one item: who gets it, and which items go with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

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
from batchrec_dagster.steps.item_pairs import number_histories, pair_histories
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.list_subjects import ITEMS

# This many users for whom the item ranks highest, items that go with it, and items with a text in
# their titles are shown.
FIRST_USERS = 10
NEIGHBOURS = 10
MOST_MATCHES = 20


@dataclass(frozen=True)
class FirstUser:
    """A user on whose list the item is."""

    user_id: str
    rank: int


@dataclass(frozen=True)
class Neighbour:
    """An item that shares users with another."""

    item: str
    title: str | None
    users_with_both: int
    """How many of the counted users have both items."""


@dataclass(frozen=True)
class SimilarItem:
    """An item of the published list of another."""

    rank: int
    item: str
    title: str | None
    score: float | None
    """None if the recipe gives no scores, or a rule put it there."""


@dataclass(frozen=True)
class ItemDetails:
    """What a pipeline knows of an item."""

    pipeline: str
    item: str
    title: str | None
    interactions: int
    users: int
    """How many users have the item."""
    last: datetime | None
    """The time of the last interaction, in UTC; None if there is none."""
    counted: int
    """How many users' histories say which items go with it."""
    in_lists: int
    """How many lists contain the item."""
    lists: int
    """How many lists there are."""
    mean_rank: float | None
    """The item's mean rank in the lists that contain it; None if none does."""
    first_users: tuple[FirstUser, ...]
    """The users for whom it ranks highest."""
    neighbours: tuple[Neighbour, ...]
    """The items whose audiences overlap most with the item's, best first."""
    similar_items: tuple[SimilarItem, ...] | None
    """The published list of similar items, best first; None if the pipeline publishes none."""


@dataclass(frozen=True)
class TitledItem:
    """An item whose title has what somebody looks for."""

    item: str
    title: str


@dataclass(frozen=True)
class ItemMatches:
    """Several items of a pipeline whose titles have the text that somebody looks for."""

    pipeline: str
    text: str
    total: int
    """How many there are."""
    items: tuple[TitledItem, ...]
    """The first of them, by title."""


def find_item(files: ListFiles, item: str) -> ItemDetails | None:
    """The item, or None if neither the lists nor the interactions have one of this id.

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
    others = [] if listed is None else listed.get_column(ITEMS.item_column).to_list()
    titles = read_titles(files, [item, *nearest.get_column("other"), *others])
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
            Neighbour(other, titles.get(other), both)
            for other, both in nearest.select("other", "both").iter_rows()
        ),
        similar_items=None
        if listed is None
        else tuple(
            SimilarItem(rank, other, titles.get(other), score)
            for rank, other, score in listed.select("rank", ITEMS.item_column, "score").iter_rows()
        ),
    )


def _find_neighbours(histories: pl.LazyFrame, item: str) -> tuple[pl.DataFrame, int]:
    """The items that share most people with the item, in the columns other and both, best first.

    With them, how many people were counted.

    histories: the columns user_id and item, of the people who are counted.
    """
    users, items = (
        frame.to_series().sort()
        for frame in pl.collect_all(
            [histories.select(pl.col(name).unique()) for name in ("user_id", "item")],
            engine="streaming",
        )
    )
    # Nothing if nobody who is counted had it.
    of_item = (items == item).arg_true().cast(pl.UInt32)
    pairs = pair_histories(number_histories(histories, users, items), len(users), of_item)
    own_pairs = pairs.filter(pl.col("item").is_in(of_item.implode()))
    nearest = own_pairs.sort("score", "other", descending=[True, False])
    named = nearest.head(NEIGHBOURS).with_columns(other=pl.lit(items).gather("other"))
    return named.select("other", "both"), len(users)


def _read_similar_items(files: ListFiles, item: str) -> pl.DataFrame | None:
    """The rows of the item in the lists of similar items; None if the pipeline publishes none."""
    similar_items = find_similar_items(files)
    edition = similar_items.editions.live()
    return None if edition is None else read_rows(similar_items, edition, ITEMS.column, item)


def find_items_by_title(files: ListFiles, text: str) -> ItemMatches | None:
    """The items of the pipeline whose title has this text, in any case; None if there is none.

    If no title has the text, they are those whose title has all of its words. Raises UserError.
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
