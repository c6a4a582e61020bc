"""Finds the items that have the attributes which a line of a batch segment job names."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl

from batchrec_dagster.personalize.conditions import compare
from batchrec_dagster.personalize.item_attributes import typed_conditions
from batchrec_dagster.personalize.schemas import ITEM_ID, ITEMS, Schema

from ..filters.group_data import ReadColumns
from ..learning.interactions import Ids, Int32, find_positions

ItemPositions = Int32
"""Positions in a model's items."""


class ItemAttributes:
    """The Items dataset, over the items that a model knows.

    Values are compared as in filters.
    """

    def __init__(self, schema: Schema, read: ReadColumns, item_ids: Ids) -> None:
        """Read no column yet: each is read when an expression first needs it.

        schema: the schema of the Items dataset.
        read: reads columns of the group's datasets.
        item_ids: the model's items, in its order.
        """
        self._schema = schema
        self._read = read
        self._item_ids = item_ids
        self._load_column = cache(self._load_column_now)

    def find_items(self, expression: str) -> ItemPositions:
        """Return the items that match the expression. Raises ItemAttributesError if it is wrong."""
        matching = np.ones(len(self._item_ids), dtype=bool)
        for field, value in typed_conditions(expression, self._schema):
            cells = self._load_column(field.name)
            is_equal = compare(cells.name, cells.dtype, "=", (value,))
            matching &= cells.to_frame().select(is_equal).to_series().to_numpy()
        return np.flatnonzero(matching).astype(np.int32)

    def _load_column_now(self, name: str) -> pl.Series:
        """Return the field's cell of each item of the model, null for one without a row."""
        rows = self._read(ITEMS, list(dict.fromkeys([ITEM_ID, name])))
        # A later row of an item replaces the earlier ones.
        rows = rows.unique(ITEM_ID, keep="last", maintain_order=True)
        positions = pl.Series(find_positions(rows[ITEM_ID], self._item_ids)).replace(-1, None)
        return rows[name].gather(positions)
