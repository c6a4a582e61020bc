"""The Items dataset as a sparse matrix: categories, numbers in buckets, creation times.

Rare values weigh more (the logarithm of their inverse frequency). Textual columns are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix, diags

from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP, ITEM_ID, Field

from .interactions import Float64, Ids, Int64, object_ids

# The most frequent features of all columns are kept. The time to fit their weights grows with the
# cube of their number.
MAX_FEATURES = 500
MAX_ENTRIES = 64  # features of an item in a column
BUCKETS = 10  # of a column of numbers, with about the same number of items each

# Takes the name of a column of the Items dataset. The result has the columns ITEM_ID and this one.
# If an item has several rows, the last one counts.
ReadColumn = Callable[[str], pl.DataFrame]


@dataclass(frozen=True)
class ItemFeatures:
    """What the Items dataset says about its items."""

    item_ids: Ids
    """(n,) distinct str, in the order of the dataset."""

    matrix: csr_matrix
    """(n, features) float32; the entries of a row have the Euclidean length 1, if there are any."""

    created: Float64
    """(n,) CREATION_TIMESTAMP in epoch seconds; NaN where unknown."""

    def select_rows(self, index: npt.NDArray[np.int32]) -> csr_matrix:
        """(len(index), features): the rows of these indices, without entries for -1."""
        if not len(self.item_ids):
            return csr_matrix((len(index), self.matrix.shape[1]), dtype=np.float32)
        has_row = (index >= 0).astype(np.float32)
        rows = (diags(has_row, dtype=np.float32) @ self.matrix[np.maximum(index, 0)]).tocsr()
        rows.eliminate_zeros()
        return rows.astype(np.float32)


def read_features(fields: Sequence[Field], read: ReadColumn) -> ItemFeatures | None:
    """The features of the items, or None if no column tells items apart.

    fields: the columns of the dataset's schema. They are read one by one.
    read: reads a column.
    """
    ids: pl.Series | None = None
    created = None
    columns: list[tuple[Int64, pl.Series]] = []
    for field in fields:
        if field.textual or field.name.upper() == ITEM_ID:
            continue
        frame = read(field.name).unique(ITEM_ID, keep="last", maintain_order=True)
        if ids is None:
            ids = frame[ITEM_ID]
        elif not frame[ITEM_ID].equals(ids):
            # The dataset was imported again between two columns. The first column's items count.
            first_ids = pl.DataFrame({ITEM_ID: ids})
            frame = first_ids.join(frame, on=ITEM_ID, how="left", maintain_order="left")
        cells = frame[frame.columns[1]]
        if field.name.upper() == CREATION_TIMESTAMP:
            created = cells.cast(pl.Float64).fill_null(np.nan).to_numpy()
        columns.append(
            _split_categories(cells) if field.type == "string" else _bucket_numbers(cells)
        )
    if ids is None:
        return None
    matrix = _build_matrix(columns, len(ids))
    if not matrix.nnz:
        return None
    unknown = np.full(len(ids), np.nan)
    return ItemFeatures(object_ids(ids), matrix, unknown if created is None else created)


def _split_categories(cells: pl.Series) -> tuple[Int64, pl.Series]:
    """The rows and values of a column of texts.

    A cell may have several values with `|` between them, so a row may occur several times.
    """
    split = pl.DataFrame({"row": np.arange(len(cells)), "value": cells.cast(pl.String)}).select(
        "row", pl.col("value").str.split("|").list.head(MAX_ENTRIES)
    )
    values = split.explode("value").with_columns(pl.col("value").str.strip_chars())
    values = values.filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
    values = values.unique(maintain_order=True)
    return values["row"].to_numpy(), values["value"]


def _bucket_numbers(cells: pl.Series) -> tuple[Int64, pl.Series]:
    """The rows and buckets of a column of numbers or booleans."""
    numbers = cells.cast(pl.Float64).fill_null(np.nan).to_numpy()
    rows = np.flatnonzero(np.isfinite(numbers))
    if not len(rows):
        return rows, pl.Series([], dtype=pl.String)
    steps = np.linspace(0, 1, BUCKETS + 1)[1:-1]
    edges = np.unique(np.quantile(numbers[rows], steps, method="inverted_cdf"))
    return rows, pl.Series(np.searchsorted(edges, numbers[rows])).cast(pl.String)


def _build_matrix(columns: Sequence[tuple[Int64, pl.Series]], n: int) -> csr_matrix:
    """(n, features) float32: the weights of the most frequent features, each row of length 1.

    columns: the row and the value of each entry of a column, from `_split_categories` and
    `_bucket_numbers`. A feature is a value of a column.
    n: the number of items.
    """
    schema = {"row": pl.Int64, "value": pl.String}
    entries = pl.concat(
        pl.DataFrame({"row": rows, "value": values}, schema=schema).with_columns(
            column=pl.lit(number, pl.Int32)
        )
        for number, (rows, values) in enumerate(columns)
    )
    counts = (
        entries.group_by("column", "value")
        .agg(count=pl.len())
        # A value of one item, or of all, says nothing about which items go together.
        .filter((pl.col("count") > 1) & (pl.col("count") < n))
        .sort(["count", "column", "value"], descending=[True, False, False])
        .head(MAX_FEATURES)
        .with_row_index("feature")
    )
    entries = entries.join(counts, on=["column", "value"]).sort("row", "feature")
    weights = np.log(n / entries["count"].to_numpy()).astype(np.float32)
    positions = entries["row"].to_numpy(), entries["feature"].to_numpy().astype(np.int32)
    matrix = csr_matrix((weights, positions), shape=(n, len(counts)), dtype=np.float32)
    # Scale each row to the Euclidean length 1.
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = (1 / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return csr_matrix(diags(scale) @ matrix, dtype=np.float32)
