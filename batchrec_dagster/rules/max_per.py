"""The rule max_per: no more than a number of items of a category on a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.rules.catalogue import ItemCatalogue
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers

NAME = "max_per"

Values = np.ndarray[tuple[int, int], np.dtype[np.int32]]
Limits = np.ndarray[tuple[int], np.dtype[np.int32]]
Counts = np.ndarray[tuple[int, int], np.dtype[np.unsignedinteger[Any]]]


class CategoryLimits:
    """The rule, for the items of a run.

    An item with several values of a category counts for each of them. One without a value is not
    limited.

    limits: how many items of one value a list may have, by the name of the category.
    """

    def __init__(self, limits: Mapping[str, int], context: RuleContext) -> None:
        tables, limit_of_value, first = [], [], 0
        for column, limit in limits.items():
            rows = context.catalogue.read_values(column)
            codes = pl.col("value").rank("dense").cast(pl.Int64) - 1 + first
            tables.append(rows.select("item", value=codes))
            distinct = rows["value"].n_unique()
            limit_of_value += [limit] * distinct
            first += distinct
        self._values = pad_values(pl.concat(tables), context.catalogue, filler=first)
        # The filler, which is no value, has no limit.
        self._limits = np.array([*limit_of_value, np.iinfo(np.int32).max], dtype=np.int32)
        self._least = min(limits.values())
        # No count is larger than a list is long.
        self._count_type = np.min_scalar_type(context.num_results)

    @property
    def bytes_per_list(self) -> int:
        """How much memory the counter takes for each list."""
        return len(self._limits) * self._count_type.itemsize

    def start(self, lists: int) -> CategoryCounter:
        """The counter of this many lists."""
        counts = np.zeros((lists, len(self._limits)), dtype=self._count_type)
        return CategoryCounter(self._values, self._limits, counts)

    def count_more_results(self, num_results: int) -> int:
        """Enough for lists that are mostly of a few values."""
        return 2 * num_results if self._least < num_results else 0


def pad_values(rows: pl.DataFrame, catalogue: ItemCatalogue, filler: int) -> Values:
    """The values of each item of the catalogue, and of others, in a row of the same length.

    rows: the columns item and value, both numbers.
    filler: what stands in the row where the item has no further value.
    """
    rows = rows.with_columns(place=pl.int_range(pl.len()).over("item"))
    width = 1 + int(rows.select(pl.col("place").max().fill_null(0)).item())
    values = np.full((catalogue.other + 1, width), filler, dtype=np.int32)
    values[rows["item"].to_numpy(), rows["place"].to_numpy()] = rows["value"].to_numpy()
    return values


class CategoryCounter:
    """How many items of each value the lists of a piece have."""

    def __init__(self, values: Values, limits: Limits, counts: Counts) -> None:
        self._values, self._limits, self._counts = values, limits, counts

    def admit(self, lists: Numbers, items: Numbers) -> Mask:
        """Whether each value of the item is on the list less often than its limit."""
        values = self._values[items]
        has_room = self._counts[lists[:, None], values] < self._limits[values]
        return np.asarray(has_room.all(axis=1))

    def add(self, lists: Numbers, items: Numbers) -> None:
        """Count the item's values."""
        self._counts[lists[:, None], self._values[items]] += 1
