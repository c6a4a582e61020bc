"""Scores items by what they are: categories, numbers in buckets, creation times.

The weights between features are learned in closed form: which features of a history predict which
features of all its items. They have no entry for a single item, so they score new ones too.
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

# The most frequent features of all columns are kept. The time to fit their weights grows with the
# cube of their number.
MAX_FEATURES = 500
MAX_ENTRIES = 64  # features of an item in a column
BUCKETS = 10  # of a column of numbers, with about the same number of items each

MAX_USERS = 20_000  # enough to fit the weights of at most 500 features on
USER_REGULARIZATION = 0.01  # times the number of users
ITEM_REGULARIZATION = 1.0

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

    def of_items(self, item_ids: Ids) -> csr_matrix:
        """(len(item_ids), features): the rows of these items, empty for unknown ones."""
        index = find_positions(self.item_ids, item_ids)
        is_known = diags((index >= 0).astype(np.float32))
        rows = csr_matrix(is_known @ self.matrix[np.maximum(index, 0)], dtype=np.float32)
        rows.eliminate_zeros()
        return rows


def read_features(fields: Sequence[Field], read: ReadColumn) -> ItemFeatures | None:
    """The features of the items, or None if no column tells items apart.

    Textual columns are not read.

    fields: the columns of the dataset's schema. They are read one by one.
    read: reads a column.
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
        # The dataset may be imported again between two columns. The first column's items count.
        frame = ids.to_frame().join(frame, on=ITEM_ID, how="left", maintain_order="left")
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
    """The columns row and value of a column of texts, of which a cell may have several values."""
    values = pl.col("value").str.split(VALUE_SEPARATOR).list.head(MAX_ENTRIES)
    rows = pl.DataFrame({"row": np.arange(len(cells)), "value": cells.cast(pl.String)})
    split = (
        rows.with_columns(values).explode("value").with_columns(pl.col("value").str.strip_chars())
    )
    return split.filter(pl.col("value") != "").unique(maintain_order=True)


def _bucket_numbers(cells: pl.Series) -> pl.DataFrame:
    """The columns row and value of a column of numbers or booleans; the values are buckets."""
    numbers = cells.cast(pl.Float64).fill_null(np.nan).to_numpy()
    rows = np.flatnonzero(np.isfinite(numbers))
    steps = np.linspace(0, 1, BUCKETS + 1)[1:-1]
    if not len(rows):
        return pl.DataFrame(schema={"row": pl.Int64, "value": pl.String})
    edges = np.unique(np.quantile(numbers[rows], steps, method="inverted_cdf"))
    buckets = pl.Series(np.searchsorted(edges, numbers[rows]))
    return pl.DataFrame({"row": rows, "value": buckets.cast(pl.String)})


def _weigh(entries: pl.DataFrame, n: int) -> csr_matrix:
    """(n, features) float32: the most frequent features, each row of Euclidean length 1.

    Rare values weigh more: the logarithm of their inverse frequency.

    entries: row, value and the number of the column. A feature is a value of a column.
    n: the number of items.
    """
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
    weights = np.log(n / entries["count"].to_numpy())
    positions = entries["row"].to_numpy(), entries["feature"].to_numpy().astype(np.int32)
    matrix = csr_matrix((weights, positions), shape=(n, len(counts)))
    lengths = np.sqrt(matrix.power(2).sum(axis=1)).A1
    scale = 1 / np.maximum(lengths, np.finfo(np.float32).tiny)
    return csr_matrix(diags(scale) @ matrix, dtype=np.float32)


@dataclass(frozen=True)
class ContentScorer:
    """Features of a history, times the weights between features, times the features of items."""

    features: csr_matrix
    """(n_items, features) float32."""

    weights: Float32
    """(features, features): a row is a feature of a history, a column one of an item to score."""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """See `select.Scorer`."""
        profiles = (history.recency_weights(exponent) @ self.features).toarray() @ self.weights
        profiles *= np.float32(weight)
        scores += (self.features @ profiles.T).T


def fit_content(history: History, features: csr_matrix) -> ContentScorer:
    """The scorer of items by their features.

    It is two ridge regressions: of the interactions of users on the features of their histories,
    and on the features of the items. With U = X F, the weights are (UᵀU + aI)⁻¹ UᵀXF (FᵀF + bI)⁻¹,
    where X has a row of ones for each user, and F the features of the items.

    features: F, (n_items, features).
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
