"""The rule max_per: a list has at most a given number of items with the same category value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR
from batchrec_dagster.steps.lists.histories import encode_pairs
from batchrec_dagster.steps.lists.inputs import ListInputs

Flags = npt.NDArray[np.bool_]


def list_values(category: str, inputs: ListInputs) -> pl.DataFrame:
    """Return the distinct values that each item has in a category: the columns item and value.

    category: the name of the category's column.
    """
    values = inputs.read_column(category).cast(pl.String).str.split(VALUE_SEPARATOR)
    rows = pl.DataFrame({"item": pl.int_range(len(values), dtype=pl.UInt32, eager=True)})
    return (
        rows.with_columns(values.alias("value"))
        .explode("value")
        .filter(pl.col("value") != "")
        .unique(maintain_order=True)
    )


def read_limits(limits: Mapping[str, int], inputs: ListInputs) -> pl.DataFrame:
    """Return how many items with each value a list may have: the columns item, value and limit.

    An item has a row for each of its values, and no row if it has no value. A number stands for
    each value. The same text in two categories has two numbers.

    limits: the largest number of items with the same value, by the name of the category.
    """
    tables = [
        list_values(category, inputs).select(
            "item",
            value=pl.struct(pl.lit(number), "value"),
            limit=pl.lit(limit, dtype=pl.UInt32),
        )
        for number, (category, limit) in enumerate(limits.items())
    ]
    return pl.concat(tables).with_columns(pl.col("value").rank("dense").cast(pl.UInt32))


def find_refused(candidates: pl.DataFrame, pinned: pl.DataFrame, limits: pl.DataFrame) -> pl.Series:
    """Return whether each candidate is refused because its list is full for one of its values.

    A list is full for a value if its pinned items and its earlier accepted candidates reach the
    value's limit. Pinned items are never refused.

    candidates: the columns list and item, in order of preference.
    pinned: the pinned items, with the columns list and item.
    limits: the table that `read_limits` returns.
    """
    rows = pl.concat([pinned.select("list", "item"), candidates.select("list", "item")])
    pairs = rows.with_row_index("row").join(limits, on="item", maintain_order="left")
    groups = encode_pairs(pairs, "value").to_numpy()
    order = np.argsort(groups, kind="stable")
    groups, row, limit = (
        groups[order],
        pairs["row"].to_numpy()[order],
        pairs["limit"].to_numpy()[order],
    )
    starts = np.searchsorted(groups, groups)

    def count_before(is_counted: Flags) -> npt.NDArray[np.int64]:
        """Return how many counted rows come before each pair in its group."""
        counts: npt.NDArray[np.int64] = np.cumsum(is_counted[row]) - is_counted[row]
        return np.subtract(counts, counts[starts])

    is_pinned = np.arange(rows.height) < pinned.height
    is_refused = np.zeros(rows.height, dtype=bool)
    stays = is_pinned
    # Each round decides at least the first of the undecided rows of each list.
    while not (stays | is_refused).all():
        # A row certainly stays if it fits after all earlier rows that are not refused yet. A row is
        # refused if it does not even fit after the earlier rows that certainly stay.
        stays = ~is_refused
        stays[row[count_before(stays) >= limit]] = False
        stays |= is_pinned
        is_refused[row[count_before(stays) >= limit]] = True
        is_refused &= ~stays
    return pl.Series(is_refused[pinned.height :])
