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
    weights are learned among the first `core` items, `kept` of the largest for each one scored.
    """
    n_items = matrix.shape[1]
    core = min(core, n_items)
    if core < 2:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    lower = gram(matrix[:, :core])
    for part, rows in zip(inverse.blocks(core), lower, strict=True):
        rows[np.arange(len(rows)), np.arange(part.start, part.stop)] += regularization
    inverse.invert(lower, log)
    weights = largest(lower, kept)
    weights.resize((n_items, n_items))
    return weights


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
