"""The scores of items by their features: categories, buckets of numbers, creation times.

The weights say which features of a history's items predict which features of an item to score.
The weights are computed in closed form. They are weights of features and not of single items, so
they score new items, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, diags

from batchrec_dagster.personalize.schemas import (
    CREATION_TIMESTAMP,
    ITEM_ID,
    VALUE_SEPARATOR,
    Field,
)

from .data import Float32, Float64, History, Ids, Int64, find_positions, object_ids
from .parallel import one_blas_thread

# Only the most frequent features of all columns are kept. The time to fit the weights grows with
# the cube of the number of features.
MAX_FEATURES = 500
MAX_ENTRIES = 64  # The largest number of an item's features in a column.
# The number of buckets of a column of numbers. Each bucket has about the same number of items.
BUCKETS = 10

# The largest number of users to fit on. It is enough for the weights of at most 500 features.
MAX_USERS = 20_000
USER_REGULARIZATION = 0.01  # This is multiplied by the number of users.
ITEM_REGULARIZATION = 1.0

# A function that takes the name of a column of the Items dataset, and returns ITEM_ID and that
# column. If an item has several rows, its last row counts.
ReadColumn = Callable[[str], pl.DataFrame]


@dataclass(frozen=True)
class ItemFeatures:
    """The features of the items in the Items dataset."""

    item_ids: Ids
    """Distinct item ids of shape (n,), in the order of the dataset."""

    matrix: csr_matrix
    """The weights of the items' features, float32 of shape (n, features).

    Each row has the Euclidean length 1, or is empty.
    """

    created: Float64
    """CREATION_TIMESTAMP in epoch seconds, of shape (n,). NaN if unknown."""

    def of_items(self, item_ids: Ids) -> csr_matrix:
        """Return the matrix rows of the given items, of shape (len(item_ids), features).

        The rows of unknown items are empty.
        """
        index = find_positions(self.item_ids, item_ids)
        is_known = diags((index >= 0).astype(np.float32))
        rows = csr_matrix(is_known @ self.matrix[np.maximum(index, 0)], dtype=np.float32)
        rows.eliminate_zeros()
        return rows


def read_features(fields: Sequence[Field], read: ReadColumn) -> ItemFeatures | None:
    """Return the features of the items, or None if no column tells items apart.

    Textual columns are not read.

    fields: the columns of the dataset's schema, which are read one after the other.
    read: reads a column. All columns must have the same rows in the same order.
    """
    ids: pl.Series | None = None
    created: Float64 | None = None
    columns: list[pl.DataFrame] = []
    for field in fields:
        if field.textual or field.name.upper() == ITEM_ID:
            continue
        frame = read(field.name).unique(ITEM_ID, keep="last", maintain_order=True)
        if ids is None:
            ids = frame[ITEM_ID]
        cells = frame[frame.columns[1]]
        if field.name.upper() == CREATION_TIMESTAMP:
            created = cells.cast(pl.Float64).fill_null(np.nan).to_numpy()
        entries = _split_categories(cells) if field.type == "string" else _bucket_numbers(cells)
        columns.append(entries.with_columns(column=pl.lit(len(columns), pl.Int32)))
    if ids is None:
        return None
    matrix = _weigh(pl.concat(columns), len(ids))
    if created is None:
        created = np.full(len(ids), np.nan)
    return ItemFeatures(object_ids(ids), matrix, created) if matrix.nnz else None


def _split_categories(cells: pl.Series) -> pl.DataFrame:
    """Return the row and value of each category in a column of texts.

    A cell may hold several values.
    """
    values = pl.col("value").str.split(VALUE_SEPARATOR).list.head(MAX_ENTRIES)
    rows = pl.DataFrame({"row": np.arange(len(cells)), "value": cells.cast(pl.String)})
    split = (
        rows.with_columns(values).explode("value").with_columns(pl.col("value").str.strip_chars())
    )
    return split.filter(pl.col("value") != "").unique(maintain_order=True)


def _bucket_numbers(cells: pl.Series) -> pl.DataFrame:
    """Return the row and bucket (as the column value) of each number or boolean in a column."""
    numbers = cells.cast(pl.Float64).fill_null(np.nan).to_numpy()
    rows = np.flatnonzero(np.isfinite(numbers))
    steps = np.linspace(0, 1, BUCKETS + 1)[1:-1]
    if not len(rows):
        return pl.DataFrame(schema={"row": pl.Int64, "value": pl.String})
    edges = np.unique(np.quantile(numbers[rows], steps, method="inverted_cdf"))
    buckets = pl.Series(np.searchsorted(edges, numbers[rows]))
    return pl.DataFrame({"row": rows, "value": buckets.cast(pl.String)})


def _weigh(entries: pl.DataFrame, n: int) -> csr_matrix:
    """Return the weights of the most frequent features, float32 of shape (n, features).

    The weight of a feature is the logarithm of its inverse frequency, so rare values weigh more.
    Each row is scaled to the Euclidean length 1.

    entries: the columns row, value and column (its number). A feature is a value of a column.
    n: the number of items.
    """
    counts = (
        entries.group_by("column", "value")
        .agg(count=pl.len())
        # A value that only one item has, or all items have, does not say which items go together.
        .filter((pl.col("count") > 1) & (pl.col("count") < n))
        .sort(["count", "column", "value"], descending=[True, False, False])
        .head(MAX_FEATURES)
        .with_row_index("feature")
    )
    entries = entries.join(counts, on=["column", "value"]).sort("row", "feature")
    weights = np.log(n / entries["count"].to_numpy())
    positions = entries["row"].to_numpy(), entries["feature"].to_numpy().astype(np.int32)
    matrix = csr_matrix((weights, positions), shape=(n, len(counts)))
    lengths = np.sqrt(matrix.power(2).sum(axis=1)).A1
    scale = 1 / np.maximum(lengths, np.finfo(np.float32).tiny)
    return csr_matrix(diags(scale) @ matrix, dtype=np.float32)


@dataclass(frozen=True)
class ContentScorer:
    """A component that scores items by their features.

    The scores are the product of the features of a history, the weights and the features of items.
    """

    features: csr_matrix
    """The features of the items, float32 of shape (n_items, features)."""

    weights: Float32
    """Weights from features of a history (rows) to features of an item to score (columns)."""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """Add the weighted scores of all items to `scores`, in place."""
        profiles = (history.recency_weights(exponent) @ self.features).toarray() @ self.weights
        profiles *= np.float32(weight)
        scores += (self.features @ profiles.T).T


def fit_content(history: History, features: csr_matrix) -> ContentScorer:
    """Fit the weights between features and return the scorer.

    The fit is two ridge regressions of the users' interactions X: on the features U of the
    histories, and on the features F of the items. The weights are

        (UᵀU + aI)⁻¹ UᵀXF (FᵀF + bI)⁻¹

    with U = X F. A row of X is the history of a user: the weights of the items that the user had
    and 0 for all other items, divided by the square root of the history's length.

    features: F, of shape (n_items, features).
    """
    matrix = history.recency_weights(0.0)
    if matrix.shape[0] > MAX_USERS:
        matrix = matrix[np.linspace(0, matrix.shape[0] - 1, MAX_USERS).astype(np.int64)]
    size = features.shape[1]
    lengths: Int64 = np.maximum(np.diff(matrix.indptr), 1)
    profiles = (diags(1 / np.sqrt(lengths)) @ matrix @ features).toarray().astype(np.float64)
    item_gram: Float64 = (features.T @ features).toarray().astype(np.float64)
    with one_blas_thread():
        user_gram = profiles.T @ profiles
        penalty = USER_REGULARIZATION * matrix.shape[0] * np.eye(size)
        weights = np.linalg.solve(user_gram + penalty, user_gram)
        weights = np.linalg.solve(item_gram + ITEM_REGULARIZATION * np.eye(size), weights.T).T
    return ContentScorer(features, weights.astype(np.float32))
