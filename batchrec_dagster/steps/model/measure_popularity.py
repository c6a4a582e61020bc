"""The quality of recommending popular items, measured as Personalize measures a model."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import polars as pl

from batchrec_dagster.personalize import split
from batchrec_dagster.personalize.measured_ndcg import GroupSums, MeasuredPopularity
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.steps.data.numbered_ids import Int64s, find_positions
from batchrec_dagster.steps.data.popular_items import count_popular_items, find_popular_items
from batchrec_dagster.steps.data.success import is_of_types

LIST_LENGTH = 25
# The rank of an item that is not popular.
FAR = 2**40
# The gain of the best possible list, by the number of items that the user chose.
_IDEAL_GAINS = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(LIST_LENGTH)))])

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def measure_popularity(
    interactions: pl.LazyFrame,
    days: int,
    success: Collection[str] = (),
    counted: Collection[str] = (),
) -> MeasuredPopularity | None:
    """Return the NDCG@25 of popular items for the tested users; None if nobody can be tested.

    Two lists are measured: the popular items of all time, and the popular items of the last days.
    The result is the higher NDCG@25, because a model has to beat both lists. Popularity is counted
    on the interactions of the users who are not tested. As in the embedded engine,
    `personalize/split.py` chooses the tested users and the later choices that are held out.

    days: the number of last days over which popularity is counted for the second list.
    success: the types of events that popularity counts; empty if it counts all types.
    counted: the types of events that count as a choice; empty if all types count.
    """
    users, items = pl.collect_all(
        [
            interactions.group_by(USER_ID).agg(rows=pl.len()),
            interactions.select(pl.col(ITEM_ID).unique()),
        ],
        engine="streaming",
    )
    is_tested = split.choose_users(users[USER_ID], users["rows"].to_numpy())
    tested_ids, item_ids = users[USER_ID].filter(is_tested).sort(), items.to_series().sort()
    tested_users = tested_ids.to_frame(USER_ID).lazy()
    rows = (
        interactions.join(tested_users, on=USER_ID, how="semi")
        .select(
            user=find_positions(USER_ID, tested_ids).cast(pl.UInt32),
            item=find_positions(ITEM_ID, item_ids).cast(pl.UInt32),
            time=pl.col(TIMESTAMP),
            is_counted=is_of_types(interactions, counted),
        )
        .collect(engine="streaming")
    )
    chosen, seen = _hold_out(rows, split.hash_ids(tested_ids), split.hash_ids(item_ids))
    other_interactions = interactions.join(tested_users, on=USER_ID, how="anti")
    # A model knows only the items of the users it is trained on, so other items are not tested.
    known_items = other_interactions.select(
        item=find_positions(ITEM_ID, item_ids).cast(pl.UInt32)
    ).unique()
    chosen = chosen.join(known_items.collect(engine="streaming"), on="item", how="semi")
    of_all_time = count_popular_items(other_interactions, None, success).get_column(ITEM_ID)
    if not (chosen.height and len(of_all_time)):
        return None
    groups = split.assign_groups(tested_ids)[np.unique(chosen["user"].to_numpy())]
    measured = []
    for window, popular in (
        (None, of_all_time),
        (days, find_popular_items(other_interactions, days, success).ids),
    ):
        ranks = np.full(len(item_ids), FAR, np.int64)
        popular_items = popular.to_frame(ITEM_ID).select(find_positions(ITEM_ID, item_ids))
        ranks[popular_items.to_series().to_numpy()] = np.arange(1, len(popular) + 1)
        people, sums = split.sum_groups(groups, measure_lists(ranks, chosen, seen))
        by_group = GroupSums(users=tuple(people), ndcg=tuple(sums))
        measured.append(MeasuredPopularity(days=window, groups=by_group))
    return max(measured, key=lambda popularity: popularity.ndcg)


def _hold_out(
    rows: pl.DataFrame, user_hashes: split.Hashes, item_hashes: split.Hashes
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the items that the tested users chose later, and the items that they had before.

    Both tables have the columns user and item, and hold each pair once. No pair is in both tables.

    rows: the tested users' interactions, with the columns user, item, time and is_counted. Users
        and items are numbers.
    user_hashes, item_hashes: the hashes of the ids, by the number of the user or item.
    """
    users, items = rows["user"].to_numpy(), rows["item"].to_numpy()
    order = split.order_rows(users, rows["time"].to_numpy(), user_hashes[users], item_hashes[items])
    ordered = rows[order].with_columns(
        is_seen=split.mark_inputs(np.bincount(users, minlength=len(user_hashes)))
    )
    seen = ordered.filter("is_seen").select("user", "item").unique()
    chosen = ordered.filter(~pl.col("is_seen"), "is_counted").select("user", "item").unique()
    return chosen.join(seen, on=["user", "item"], how="anti"), seen


def measure_lists(ranks: Int64s, chosen: pl.DataFrame, seen: pl.DataFrame) -> Floats:
    """Return the NDCG@25 of lists of popular items, for each user who chose an item.

    The result has the shape (users,), in the order of the users' numbers.

    ranks: (items,) the popularity rank of each item, from 1; FAR if an item is not popular.
    chosen: the distinct items that users chose: the columns user and item.
    seen: the distinct items that are left out of users' lists: the columns user and item. It has
        no pair of `chosen`.
    """
    users, items = (
        np.concatenate([chosen[column].to_numpy(), seen[column].to_numpy()]).astype(np.int64)
        for column in ("user", "item")
    )
    is_seen = np.arange(len(users)) >= chosen.height
    people, relevant = np.unique(chosen["user"].to_numpy(), return_counts=True)
    rank = ranks[items]
    order = np.lexsort((rank, users))
    seen_before = np.cumsum(is_seen[order])
    # The number of seen items of all users with lower numbers.
    starts = np.searchsorted(users[order], users[order])
    seen_of_others = np.concatenate([[0], seen_before])[starts]
    own_rank = rank[order] - (seen_before - seen_of_others)
    is_hit = ~is_seen[order] & (own_rank <= LIST_LENGTH)
    hits = np.searchsorted(people, users[order][is_hit])
    gains = np.bincount(hits, 1 / np.log2(1 + own_rank[is_hit]), minlength=len(people))
    return np.asarray(gains / _IDEAL_GAINS[np.minimum(relevant, LIST_LENGTH)])
