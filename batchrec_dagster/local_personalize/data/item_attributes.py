"""Finds the items that have the attributes which a line of a batch segment job names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from batchrec_dagster.personalize.conditions import check_condition, find_matches
from batchrec_dagster.personalize.filters import iterate_comparisons, parse_attributes
from batchrec_dagster.personalize.schemas import ITEM_ID, ITEMS, Schema

from ..filters.group_data import ReadColumns
from ..learning.interactions import Ids, Int32, find_positions

ItemPositions = Int32
"""Positions in a model's items."""


@dataclass(frozen=True)
class ItemAttributes:
    """The Items dataset, over the items that a model knows. Values are compared as in filters."""

    schema: Schema
    """The schema of the Items dataset."""
    read: ReadColumns
    """Reads columns of the group's datasets."""
    item_ids: Ids
    """The model's items, in its order."""

    def find_items(self, expression: str) -> ItemPositions:
        """Return the items that match the expression.

        Raises FilterExpressionError if it is wrong.
        """
        condition = parse_attributes(expression)
        check_condition(condition, ITEMS, {ITEMS: self.schema})
        columns = [comparison.field.column for comparison in iterate_comparisons(condition)]
        rows = self.read(ITEMS, list(dict.fromkeys([ITEM_ID, *columns])))
        # A later row of an item replaces the earlier ones.
        rows = rows.unique(ITEM_ID, keep="last", maintain_order=True)
        positions = pl.Series(find_positions(rows[ITEM_ID], self.item_ids)).replace(-1, None)
        matching = find_matches(condition, rows.select(pl.all().gather(positions)))
        return np.flatnonzero(matching.to_numpy()).astype(np.int32)
