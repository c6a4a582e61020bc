"""Measures recommending popular items, as Personalize measures a model."""

from __future__ import annotations

from collections.abc import Collection
from zlib import crc32

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.steps.numbered_ids import Numbers, find_positions
from batchrec_dagster.steps.popular_items import find_popular_items
from batchrec_dagster.steps.success import is_success
from batchrec_dagster.storage.measured_popularity import MeasuredPopularity

# One user in this many is tested, and this share of their interactions is held out: developer
# guide, "Evaluating a solution version with metrics".
PARTS_OF_USERS, HELD_OUT_SHARE = 10, 0.1
# Of more interactions than this, fewer users are tested, so that theirs fit into memory.
MOST_ROWS = 2_000_000
LIST_LENGTH = 25
# The place of an item that is not popular.
FAR = 2**40
# Half of a 95% interval, in standard errors.
STANDARD_ERRORS = 1.96

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def measure_popularity(
    interactions: pl.LazyFrame,
    days: int,
    success: Collection[str] = (),
    counted: Collection[str] = (),
) -> MeasuredPopularity | None:
    """The NDCG@25 of popular items for a tenth of the users; None if nobody can be tested.

    Popularity is counted on the interactions of all other users, and the newest tenth of the tested
    users' own is what they chose.

    days, success: as of `find_popular_items`.
    counted: the types of events that count as chosen; none if all do.
    """
    size, users, items = pl.collect_all(
        [
            interactions.select(pl.len()),
            interactions.select(pl.col(USER_ID).unique()),
            interactions.select(pl.col(ITEM_ID).unique()),
        ],
        engine="streaming",
    )
    user_ids, item_ids = users.to_series().sort(), items.to_series().sort()
    parts = PARTS_OF_USERS * max(1, -(-size.item() // MOST_ROWS))
    tested_ids = user_ids.filter(choose_users(user_ids, parts))
    tested_users = tested_ids.to_frame(USER_ID).lazy()
    rows = (
        interactions.join(tested_users, on=USER_ID, how="semi")
        .select(
            user=find_positions(USER_ID, user_ids).cast(pl.UInt32),
            item=find_positions(ITEM_ID, item_ids).cast(pl.UInt32),
            time=pl.col(TIMESTAMP),
            is_counted=is_success(interactions, counted),
        )
        .collect(engine="streaming")
    )
    chosen, seen = _hold_out(rows)
    others = interactions.join(tested_users, on=USER_ID, how="anti")
    popular = find_popular_items(others, days, success).ids
    if not (chosen.height and len(popular)):
        return None
    places = np.full(len(item_ids), FAR, np.int64)
    popular_items = popular.to_frame(ITEM_ID).select(find_positions(ITEM_ID, item_ids))
    places[popular_items.to_series().to_numpy()] = np.arange(1, len(popular) + 1)
    ndcg = measure_lists(places, chosen, seen)
    margin = None
    if len(ndcg) > 1:
        margin = STANDARD_ERRORS * float(ndcg.std(ddof=1)) / float(np.sqrt(len(ndcg)))
    return MeasuredPopularity(days=days, users=len(ndcg), ndcg=float(ndcg.mean()), margin=margin)


def choose_users(user_ids: pl.Series, parts: int) -> pl.Series:
    """Whether each user is among about one in `parts`, by a hash of nothing but the id."""
    chosen = (crc32(f"tested\0{user}".encode()) % parts == 0 for user in user_ids)
    return pl.Series(np.fromiter(chosen, bool, len(user_ids)))


def _hold_out(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the tested users chose, and what they had before.

    Both have the columns user and item, once each; none of the first is in the second.

    rows: the tested users' interactions, with the columns user, item, time and is_counted.
    """
    # Interactions of the same second are in an order that does not depend on the items' ids alone.
    mixed = (pl.col("item").cast(pl.UInt64) * 2_654_435_761 + pl.col("user") * 40_503) % 2**32
    place, size = pl.int_range(pl.len()).over("user"), pl.len().over("user")
    ordered = (
        rows.with_columns(mixed=mixed)
        .sort("user", "time", "mixed", "item")
        .with_columns(is_seen=place < ((1 - HELD_OUT_SHARE) * size).floor())
        .filter(size > 1)
    )
    seen = ordered.filter("is_seen").select("user", "item").unique()
    chosen = ordered.filter(~pl.col("is_seen"), "is_counted").select("user", "item").unique()
    return chosen.join(seen, on=["user", "item"], how="anti"), seen


def measure_lists(places: Numbers, chosen: pl.DataFrame, seen: pl.DataFrame) -> Floats:
    """(people,) the NDCG@25 of the best items for each person who chose any.

    The people are in the order of their numbers.

    places: (items,) the place of each item, from 1.
    chosen: the columns user and item, of what people chose; distinct.
    seen: the same of what is left out of their lists; none of it is among the chosen.
    """
    users, items = (
        np.concatenate([chosen[column].to_numpy(), seen[column].to_numpy()]).astype(np.int64)
        for column in ("user", "item")
    )
    is_seen = np.arange(len(users)) >= chosen.height
    people, relevant = np.unique(chosen["user"].to_numpy(), return_counts=True)
    place = places[items]
    order = np.lexsort((place, users))
    seen_before = np.cumsum(is_seen[order])
    # How many seen items people with lower numbers have.
    starts = np.searchsorted(users[order], users[order])
    seen_of_others = np.concatenate([[0], seen_before])[starts]
    own_place = place[order] - (seen_before - seen_of_others)
    is_hit = ~is_seen[order] & (own_place <= LIST_LENGTH)
    hits = np.searchsorted(people, users[order][is_hit])
    gains = np.bincount(hits, 1 / np.log2(1 + own_place[is_hit]), minlength=len(people))
    return np.asarray(gains / _IDEAL_GAINS[np.minimum(relevant, LIST_LENGTH)])


# The gain of the best possible list by how many items are chosen.
_IDEAL_GAINS = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(LIST_LENGTH)))])
