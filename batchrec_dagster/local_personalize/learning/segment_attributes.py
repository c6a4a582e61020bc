"""The attributes of the Items dataset that segments are measured for: which items have each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP, ITEM_ID, Field

from .interactions import Ids, object_ids


@dataclass(frozen=True)
class SegmentAttributes:
    """Attributes, such as a genre, and the items that have each."""

    item_ids: Ids
    """(items,) distinct str."""

    matrix: csr_matrix
    """(attributes, items) float32: 1 where the item has the attribute."""


def choose_attribute_fields(fields: Sequence[Field]) -> list[str]:
    """The names of the columns whose values are attributes.

    These are the categories and booleans; if there are none, the numbers. Amazon Personalize does
    not document which queries it measures. AWS's samples ask for categories.
    """
    candidates = [
        field for field in fields if field.name.upper() not in (ITEM_ID, CREATION_TIMESTAMP)
    ]
    kinds = [field.name for field in candidates if field.categorical or field.type == "boolean"]
    return kinds or [field.name for field in candidates if field.type != "string"]


def index_attributes(items: pl.DataFrame) -> SegmentAttributes:
    """The attributes of the items: each distinct value of each column but ITEM_ID.

    A text with `|` has the values that `|` separates. Nulls and empty texts are no attributes.

    items: a row for each item. A later row of an item replaces the earlier ones.
    """
    rows = items.unique(ITEM_ID, keep="last", maintain_order=True)
    schema = {"item": pl.UInt32, "column": pl.String, "value": pl.String}
    entries = [pl.DataFrame(schema=schema)]
    for cells in rows.drop(ITEM_ID):
        column = pl.DataFrame({"value": cells.cast(pl.String)}).with_row_index("item")
        if cells.dtype == pl.String:
            column = column.with_columns(pl.col("value").str.split("|")).explode("value")
        entries.append(column.select("item", pl.lit(cells.name).alias("column"), "value"))
    values = pl.concat(entries).filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
    attributes = values.select("column", "value").unique().sort("column", "value")
    coded = values.unique().join(attributes.with_row_index("attribute"), on=["column", "value"])
    positions = coded["attribute"].to_numpy(), coded["item"].to_numpy()
    ones = np.ones(coded.height, np.float32)
    matrix = csr_matrix((ones, positions), shape=(attributes.height, rows.height))
    return SegmentAttributes(object_ids(rows[ITEM_ID]), matrix)
