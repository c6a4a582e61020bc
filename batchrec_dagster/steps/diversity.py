"""How many categories the lists have."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID
from batchrec_dagster.rules.catalogue import ItemCatalogue
from batchrec_dagster.rules.max_per import pad_values
from batchrec_dagster.steps.items import list_categories, read_attributes
from batchrec_dagster.steps.work import Work


class ListDiversity:
    """Counts the distinct values of a category on each list.

    An item with several values counts for each. Lists without any value are left out.

    items: the columns ITEM_ID and the category.
    """

    def __init__(self, items: pl.DataFrame, category: str) -> None:
        self._category = category
        self._catalogue = ItemCatalogue(items[ITEM_ID], items, np.zeros(items.height))
        rows = self._catalogue.read_values(category)
        codes = pl.col("value").rank("dense").cast(pl.Int64) - 1
        self._filler = rows["value"].n_unique()
        rows = rows.select("item", value=codes)
        self._values = pad_values(rows, self._catalogue, self._filler)
        self._lists = self._total = self._lists_of_one = 0

    def add(self, table: pl.DataFrame) -> None:
        """Count these lists.

        table: the columns user_id and item_id, all rows of a user together.
        """
        lists = table["user_id"].rle_id().to_numpy().astype(np.int64)
        values = self._values[self._catalogue.find_numbers(table["item_id"])].astype(np.int64)
        codes = (lists[:, None] * (self._filler + 1) + values)[values != self._filler]
        codes.sort()
        distinct = codes[np.diff(codes, prepend=-1) != 0]
        values_per_list = np.bincount(distinct // (self._filler + 1))
        self._lists += int((values_per_list > 0).sum())
        self._total += len(distinct)
        self._lists_of_one += int((values_per_list == 1).sum())

    def summarize(self) -> dict[str, Any]:
        """The counts, for the metadata of the lists."""
        return {
            "category": self._category,
            "lists": self._lists,
            "values_per_list": round(self._total / max(1, self._lists), 2),
            "lists_of_one": self._lists_of_one,
        }


def read_diversity(work: Work) -> ListDiversity | None:
    """What counts the first declared category; None if none is declared. Raises StorageError."""
    categories = list_categories(work.pipeline)
    items = read_attributes(work) if categories else None
    if items is None:
        return None
    return ListDiversity(items.select(ITEM_ID, categories[0]), categories[0])
