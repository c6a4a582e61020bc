"""The items that users had, as far as a rule counts them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.config.rules import ExcludeSeen, PriceRange
from batchrec_dagster.personalize.schemas import ITEM_ID, SECONDS_A_DAY, TIMESTAMP, USER_ID
from batchrec_dagster.steps.data.numbered_ids import find_positions
from batchrec_dagster.steps.data.success import is_of_types


def read_histories(
    interactions: pl.LazyFrame,
    user_ids: pl.Series,
    item_ids: pl.Series,
    data_until: int,
    selections: Mapping[str, ExcludeSeen | PriceRange],
) -> dict[str, pl.Series]:
    """Read the items that each user had, separately for each of these rules.

    The result has a series for each rule, by the rule's name. The index of a history in the series
    is the user's number, and the last history, for any other user, is empty. A history holds the
    numbers of the user's distinct items, in order. The interactions are read only once for all
    rules, because reading takes longer than everything else before lists are made.

    user_ids, item_ids: the distinct ids. The number of a user or an item is the index of its id.
    data_until: the time of the newest interaction, in epoch seconds.
    selections: the rules, by name.
    """
    if not selections:
        return {}
    user, item = (
        find_positions(column, ids).cast(pl.UInt64)
        for column, ids in ((USER_ID, user_ids), (ITEM_ID, item_ids))
    )
    conditions = {
        name: is_selected(interactions, selection, data_until)
        for name, selection in selections.items()
    }
    pairs = (
        interactions.select(pair=user * 2**32 + item, **conditions)
        .filter(pl.any_horizontal(*conditions))
        .drop_nulls()
        .collect(engine="streaming")
    )
    codes = pairs.drop_in_place("pair").to_numpy(writable=True)
    histories = {}
    for name in conditions:
        is_selected_pair = pairs.drop_in_place(name)
        # The last rule needs no copy if it selects all pairs.
        is_copy_needed = pairs.width or not is_selected_pair.all()
        selected = codes[is_selected_pair.to_numpy()] if is_copy_needed else codes
        histories[name] = _list_items(selected, len(user_ids))
    return histories


def measure_history(
    interactions: pl.LazyFrame, users: pl.Series, seen: ExcludeSeen, data_until: int, share: float
) -> int:
    """Return a quantile over users of the number of items that exclude_seen leaves out.

    At least the given share of the users have at most this many such items.

    users: the distinct ids of the users to look at. A user without such items counts with 0.
    data_until: the time of the newest interaction, in epoch seconds.
    share: the share of users, from 0 to 1. With 1, the result is the largest number of any user.
    """
    lengths = (
        interactions.filter(is_selected(interactions, seen, data_until))
        .filter(pl.col(USER_ID).is_in(users.implode()))
        .group_by(USER_ID)
        .agg(items=pl.col(ITEM_ID).n_unique())
        .collect(engine="streaming")
        .get_column("items")
    )
    without = pl.Series([0], dtype=lengths.dtype).new_from_index(0, len(users) - len(lengths))
    return int(pl.concat([lengths, without]).quantile(share, "higher") or 0)


def is_selected(
    interactions: pl.LazyFrame, selection: ExcludeSeen | PriceRange, data_until: int
) -> pl.Expr:
    """Return an expression for whether an interaction counts for the rule.

    A rule may name event types, in upper or lower case. The rule exclude_seen may also name a
    number of last days.
    """
    condition = is_of_types(interactions, selection.events or ())
    if isinstance(selection, ExcludeSeen) and selection.days is not None:
        condition &= pl.col(TIMESTAMP) > data_until - selection.days * SECONDS_A_DAY
    return condition.fill_null(value=False)


def _list_items(pairs: npt.NDArray[np.uint64], users: int) -> pl.Series:
    """Return the numbers of the items of each user, as a list for each user.

    The index of a list is the user's number. The last list, for any other user, is empty.

    pairs: the number of a user times 2**32, plus the number of an item. The array is sorted in
        place, because sorting with Polars would take three times the memory.
    users: the number of users.
    """
    import pyarrow as pa  # Not imported when Dagster only loads the pipelines.

    pairs.sort()
    repeats = 1 + np.flatnonzero(pairs[1:] == pairs[:-1])
    starts = np.searchsorted(pairs, np.arange(users + 2, dtype=np.uint64) << np.uint64(32))
    starts -= np.searchsorted(repeats, starts)
    # The lower half of each pair is the item's number.
    items = np.delete(pairs.astype(np.uint32), repeats)
    return pl.Series(pa.LargeListArray.from_arrays(starts, items), dtype=pl.List(pl.UInt32))


def encode_pairs(rows: pl.DataFrame, column: str) -> pl.Series:
    """Return for each row a number that stands for its list and its value in the given column.

    The result is the number of the list times 2**32, plus the value.
    """
    pair = pl.col("list").cast(pl.UInt64) * 2**32 + pl.col(column)
    return rows.select(pair.alias("pair")).to_series()
