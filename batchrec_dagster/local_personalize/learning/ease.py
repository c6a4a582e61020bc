"""Item-item weights by ridge regression without self-loops.

Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, vstack

from batchrec_dagster.local_personalize.learning import inverse
from batchrec_dagster.local_personalize.learning.threads import each, ordered_map

Float32 = npt.NDArray[np.float32]

# Users with more items than this say little about any pair, and pairs grow with the square.
LONGEST_HISTORY = 2_000


def fit(
    matrix: csr_matrix,
    *,
    core: int,
    regularization: float,
    kept: int,
    log: Callable[[str], None] = lambda _: None,
) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item met, column = an item to score.

    `matrix` is (users, n_items), ones where a user met an item, the most popular items first;
    weights are learned jointly among the first `core` items, and pair by pair with the others
    (`pairwise`); `kept` of the largest stay for each item scored.
    """
    n_items = matrix.shape[1]
    core = min(core, n_items)
    if core < 2:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    popular = matrix[:, :core]
    # By the operations: n^3 over the items; u^3 + 2 u^2 n + u n^2 over the users.
    if 5 * matrix.shape[0] < 2 * core:
        lower = inverse_by_users(popular, regularization, log)
    else:
        lower = gram(popular)
        add_to_diagonal(lower, regularization)
        inverse.invert(lower, log)
    weights = largest(lower, kept)
    weights.resize((n_items, n_items))
    if core < n_items:
        weights = (weights + pairwise(matrix, core, regularization, kept)).tocsr()
        weights.sort_indices()
    return weights


def inverse_by_users(
    matrix: csr_matrix, regularization: float, log: Callable[[str], None] = lambda _: None
) -> list[Float32]:
    """The inverse of X'X + λI, up to the factor 1 / λ, for far fewer users than items.

    By Woodbury's identity λ (X'X + λI)^-1 = I - X' (XX' + λI)^-1 X, where XX' is (users, users).
    """
    n = matrix.shape[1]
    parts = inverse.blocks(n)
    if not matrix.shape[0]:
        lower = [np.zeros((part.stop - part.start, part.stop), np.float32) for part in parts]
        add_to_diagonal(lower, 1.0)
        return lower
    by_item = matrix.T.tocsr()
    among_users = gram(by_item)
    add_to_diagonal(among_users, regularization)
    inverse.invert(among_users, log)
    user_parts = inverse.blocks(matrix.shape[0])
    inverted = np.hstack(
        [inverse.column_block(among_users, user_parts, k) for k in range(len(user_parts))]
    )
    projected = list(
        ordered_map(lambda part: np.ascontiguousarray((by_item[part] @ inverted).T), parts)
    )  # each (users, b)

    def multiply(i: int) -> Float32:
        items = by_item[parts[i]].toarray()  # (b, users)
        rows = np.empty((len(items), parts[i].stop), np.float32)
        for part, block in zip(parts[: i + 1], projected, strict=False):
            np.matmul(items, block, out=rows[:, part])
        return np.negative(rows, out=rows)

    lower = list(ordered_map(multiply, range(len(parts))))
    add_to_diagonal(lower, 1.0)
    return lower


def add_to_diagonal(lower: list[Float32], value: float) -> None:
    """Add to the diagonal of a matrix held as `inverse.invert` takes it."""
    for part, rows in zip(inverse.blocks(lower[-1].shape[1]), lower, strict=True):
        rows[np.arange(len(rows)), np.arange(part.start, part.stop)] += value


def pairwise(matrix: csr_matrix, core: int, regularization: float, kept: int) -> csr_matrix:
    """Weights (n_items, n_items) of all pairs with an item outside the core.

    The ridge regression of the item scored on the item met alone: the count of their common users
    over the count of the met one's, plus `regularization`. Costs what those items' histories hold.
    """
    n_items = matrix.shape[1]
    matrix = matrix[np.diff(matrix.indptr) <= LONGEST_HISTORY]
    by_item = matrix.T.tocsr()
    shrink = 1 / (np.diff(by_item.indptr) + np.float32(regularization))
    others = matrix.copy()
    others.data[others.indices < core] = 0
    others.eliminate_zeros()

    def select(part: slice) -> csr_matrix:
        stops = (min(part.stop, core), max(part.start, core))
        scored_in_core = by_item[part.start : stops[0]] @ others
        scored_outside = by_item[stops[1] : part.stop] @ matrix
        met = vstack([scored_in_core, scored_outside], format="coo")  # (b, n_items)
        weights = (met.data * shrink[met.col]).astype(np.float32)
        row, column = met.row, met.col
        apart = column != row + part.start
        row, column, weights = row[apart], column[apart], weights[apart]
        order = np.lexsort((column, -weights, row))
        row, column, weights = row[order], column[order], weights[order]
        best = np.arange(len(row)) - np.searchsorted(row, row) < kept
        shape = (part.stop - part.start, n_items)
        return csr_matrix((weights[best], (row[best], column[best])), shape=shape)

    by_target = vstack(list(ordered_map(select, inverse.blocks(n_items))), format="csr")
    return by_target.T.tocsr()


def gram(matrix: csr_matrix) -> list[Float32]:
    """How often each two items were met by the same user, as `inverse.invert` takes it."""
    parts = inverse.blocks(matrix.shape[1])
    by_item = matrix.T.tocsr()
    lower: list[Float32] = [np.empty(0, np.float32)] * len(parts)

    def multiply(i: int) -> None:
        end = parts[i].stop
        product = by_item[parts[i]] @ matrix[:, :end]
        lower[i] = product.toarray().astype(np.float32, copy=False)

    each(multiply, range(len(parts) - 1, -1, -1))
    return lower


def largest(lower: list[Float32], kept: int) -> csr_matrix:
    """EASE's weights -P[i, j] / P[j, j] from the inverse P, the `kept` largest by size for each j.

    Few weights carry nearly all of the accuracy, and scoring costs in proportion to them.
    """
    parts = inverse.blocks(lower[-1].shape[1])

    def select(k: int) -> csr_matrix:
        columns = inverse.column_block(lower, parts, k)  # (n, b)
        n, width = columns.shape
        own = np.arange(parts[k].start, parts[k].stop)
        weights = (columns / -columns[own, np.arange(width)]).T  # (b, n)
        weights[np.arange(width), own] = 0
        if kept < n - 1:
            size = np.abs(weights)
            threshold = np.partition(size, n - kept, axis=1)[:, n - kept, None]
            weights[size < threshold] = 0
        return csr_matrix(weights)

    by_target = vstack(list(ordered_map(select, range(len(parts)))), format="csr")
    weights: csr_matrix = by_target.T.tocsr()
    weights.sort_indices()
    return weights
