"""The rule max_per: no more than a number of items of a category on a list."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR
from batchrec_dagster.steps.rule_context import RuleContext, encode_pairs

Flags = npt.NDArray[np.bool_]


def list_values(category: str, context: RuleContext) -> pl.DataFrame:
    """The distinct values of a category that each item has: the columns item and value."""
    values = context.read_column(category).cast(pl.String).str.split(VALUE_SEPARATOR)
    rows = pl.DataFrame({"item": pl.int_range(len(values), dtype=pl.UInt32, eager=True)})
    return (
        rows.with_columns(values.alias("value"))
        .explode("value")
        .filter(pl.col("value") != "")
        .unique(maintain_order=True)
    )


def read_limits(limits: Mapping[str, int], context: RuleContext) -> pl.DataFrame:
    """The columns item, value and limit: how many items of the value a list may have.

    An item with several values has a row for each, and one without a value has none. The values of
    all categories are numbered together.

    limits: by the name of the category.
    """
    tables = [
        list_values(category, context).select(
            "item",
            value=pl.struct(pl.lit(number), "value"),
            limit=pl.lit(limit, dtype=pl.UInt32),
        )
        for number, (category, limit) in enumerate(limits.items())
    ]
    return pl.concat(tables).with_columns(pl.col("value").rank("dense").cast(pl.UInt32))


def find_refused(candidates: pl.DataFrame, pinned: pl.DataFrame, limits: pl.DataFrame) -> pl.Series:
    """Whether each candidate is refused, as its list has enough items of one of its values.

    What counts are the candidates before it that are not refused themselves, and first of all the
    pinned items, which never are.

    candidates: the columns list and item, in order.
    pinned: the same columns.
    limits: as `read_limits` reads them.
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
        """How many of the rows that count come before each pair in its group."""
        counts: npt.NDArray[np.int64] = np.cumsum(is_counted[row]) - is_counted[row]
        return np.subtract(counts, counts[starts])

    is_pinned = np.arange(rows.height) < pinned.height
    is_refused = np.zeros(rows.height, dtype=bool)
    stays = is_pinned
    # Each round decides at least the first of the undecided rows of each list.
    while not (stays | is_refused).all():
        # What fits behind all rows that are not refused yet, stays. What does not fit even behind
        # those that stay, is refused.
        stays = ~is_refused
        stays[row[count_before(stays) >= limit]] = False
        stays |= is_pinned
        is_refused[row[count_before(stays) >= limit]] = True
        is_refused &= ~stays
    return pl.Series(is_refused[pinned.height :])
