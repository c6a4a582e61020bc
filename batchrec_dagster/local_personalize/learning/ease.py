"""Item-item weights by ridge regression with a zero diagonal (EASE), block by block.

Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, csr_matrix, hstack, vstack

from .interactions import Float32
from .low_rank import LowRank
from .ranking import keep_columns, most_recent, reindex, top_k_per_dense_row, top_k_per_row
from .threads import for_each, ordered_map, pieces, single_threaded_blas

BLOCK = 512
TILE = 16  # of float32, a line of the cache
STRIPE = 2048  # columns multiplied at once: the product stays in the cache


def blocks(n: int) -> list[slice]:
    """The row blocks of a matrix of n rows."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def invert(lower: list[Float32], log: Callable[[str], None] = lambda _: None) -> None:
    """Invert a symmetric positive definite matrix in place.

    `lower[i]` holds the rows of `blocks(n)[i]`, columns 0 to the block's end, C-contiguous
    float32. Raises numpy.linalg.LinAlgError when the matrix is not positive definite.
    """
    n = lower[-1].shape[1] if lower else 0
    parts = blocks(n)
    with single_threaded_blas():
        for k, pivot in enumerate(parts):
            _sweep(lower, parts, k, pivot)
            if (k + 1) % 8 == 0:
                log(f"inverse: {pivot.stop:,} of {n:,} columns")
    for rows in lower:
        np.negative(rows, out=rows)


def _sweep(lower: list[Float32], parts: list[slice], k: int, pivot: slice) -> None:
    across = row_block(lower, parts, k)
    square = across[:, pivot].astype(np.float64)
    np.linalg.cholesky(square)  # raises unless positive definite
    inverse = np.linalg.inv(square).astype(np.float32)
    scaled = np.empty_like(across)

    def scale(part: slice) -> None:
        np.matmul(inverse, across[:, part], out=scaled[:, part])

    for_each(scale, parts)

    def update(i: int) -> None:
        if i == k:
            return
        weights = np.ascontiguousarray(scaled[:, parts[i]].T)
        product = np.empty((len(weights), STRIPE), dtype=np.float32)
        for start in range(0, parts[i].stop, STRIPE):
            rows = lower[i][:, start : start + STRIPE]
            out = product[:, : rows.shape[1]]
            np.matmul(weights, across[:, start : start + rows.shape[1]], out=out)
            np.subtract(rows, out, out=rows)
        if i > k:
            lower[i][:, pivot] = weights

    # The longest rows first, so that all cores finish at about the same time.
    for_each(update, range(len(parts) - 1, -1, -1))
    lower[k][:, : pivot.start] = scaled[:, : pivot.start]
    lower[k][:, pivot] = -inverse


def row_block(lower: list[Float32], parts: list[slice], k: int) -> Float32:
    """The full rows (b, n) of block k, from the lower half."""
    pivot = parts[k]
    out = np.empty((pivot.stop - pivot.start, parts[-1].stop), dtype=np.float32)
    out[:, : pivot.stop] = lower[k]
    for i in range(k + 1, len(parts)):
        _transpose(lower[i][:, pivot], out[:, parts[i]])
    return out


def _transpose(block: Float32, out: Float32) -> None:
    """Write the transpose, a line of the cache at a time: in half the time."""
    for start in range(0, len(block), TILE):
        out[:, start : start + TILE] = block[start : start + TILE].T


Rows = Callable[[slice], Float32]

# Of the inverse by users, half is kept up to here: 0.6 GB. The columns of more items are multiplied
# twice instead.
MAX_KEPT_ITEMS = 17_000

# Products of XᵀX added at once, and sums kept meanwhile: a few MiB of each.
ENTRIES = 1 << 20
SUMS = 1 << 20

# Rows of X with more than one entry in so many columns are multiplied as dense ones, so many at
# once: adding up a product of two entries takes as long as about so many products within BLAS.
LONG = 12
ROWS = 1024


def fit(
    matrix: csr_matrix,
    *,
    core: int,
    regularization: float,
    neighbors: int,
    log: Callable[[str], None] = lambda _: None,
) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item of a history, column = an item to score.

    `matrix` is (users, n_items) of ones: the most popular items first, the entries of a row from
    new to old. The first `core` items are regressed jointly, as in the paper; of pairs with an
    item outside the core, the weights are approximate (`LowRank`), over the newest entries of each
    user (`ranking.most_recent`). Each column keeps its `neighbors` largest weights: they carry the
    accuracy, and scoring costs in proportion to them.
    """
    n_items = matrix.shape[1]
    core = min(core, n_items)
    if n_items < 2:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    inside = matrix[:, :core]
    inverse = (
        _inverse_by_users(inside, regularization, log)
        if matrix.shape[0] < core
        else _inverse_by_items(inside, regularization, log)
    )
    paired = most_recent(matrix)
    by_item = paired.T.tocsr()
    outside = paired[:, core:]
    low_rank = LowRank.of(matrix, regularization) if core < n_items else None

    def weights(part: slice) -> csr_matrix:
        """(width, n_items): the weights of a block of targets, all in the core or all outside."""
        width = np.arange(part.stop - part.start)
        first = core if part.start < core else 0
        single = by_item[part] @ (outside if part.start < core else paired)
        if low_rank is not None:
            low_rank.to_weights(single, part, first)
        if part.start >= core:
            single.data[single.indices == np.repeat(width + part.start, np.diff(single.indptr))] = 0
            return top_k_per_row(single, neighbors)
        rows = inverse(part)  # (width, core)
        diagonal = rows[width, width + part.start]
        rows[width, width + part.start] = 0
        together = top_k_per_dense_row(rows, neighbors)
        together.data /= -np.repeat(diagonal, np.diff(together.indptr))
        if core < n_items:
            together = top_k_per_row(hstack([together, single], format="csr"), neighbors)
        return together

    parts = blocks(core)
    parts += [slice(core + part.start, core + part.stop) for part in blocks(n_items - core)]
    by_target = vstack(list(ordered_map(weights, parts)), format="csr")
    out: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return out


def extend(
    weights: csr_matrix,
    old_index: npt.NDArray[np.int32],
    matrix: csr_matrix,
    *,
    regularization: float,
    neighbors: int,
) -> csr_matrix:
    """Weights of an earlier `fit` with items added, in the order of the columns of `matrix`.

    `old_index` (n_items,) is the index of each item in `weights`, -1 for a new item. The weights of
    pairs with a new item are approximate, as outside the core of `fit`.
    """
    n_items = matrix.shape[1]
    is_new = old_index < 0
    new = np.flatnonzero(is_new)
    moved = reindex(weights, old_index).T.tocsr()
    low_rank = LowRank.of(matrix, regularization) if len(new) else None
    paired = most_recent(matrix)
    by_item = paired.T.tocsr()
    on_new, on_old = keep_columns(paired, is_new), keep_columns(paired, ~is_new)

    def rows(part: slice) -> csr_matrix:
        """(width, n_items): the weights of a block of targets."""
        single = by_item[part] @ on_new
        added = new[(new >= part.start) & (new < part.stop)]
        if len(added):
            ones, place = np.ones(len(added), np.float32), np.arange(len(added))
            spread = csr_matrix(
                (ones, (added - part.start, place)), shape=(part.stop - part.start, len(added))
            )
            single = (single + spread @ (by_item[added] @ on_old)).tocsr()
        if low_rank is not None:
            low_rank.to_weights(single, part, 0)
        together = (moved[part] + single).tocsr()
        row = np.repeat(np.arange(part.start, part.stop), np.diff(together.indptr))
        together.data[together.indices == row] = 0
        return top_k_per_row(together, neighbors)

    by_target = vstack(list(ordered_map(rows, blocks(n_items))), format="csr")
    out: csr_matrix = by_target.T.tocsr()  # with sorted indices
    return out


def _inverse_by_items(
    matrix: csr_matrix, regularization: float, log: Callable[[str], None]
) -> Rows:
    """Rows of (XᵀX + λI)⁻¹, inverted directly: memory for half of items x items."""
    lower, parts = gram(matrix), blocks(matrix.shape[1])
    _add_to_diagonal(lower, parts, regularization)
    invert(lower, log)
    return _rows_of(lower, parts)


def _rows_of(lower: list[Float32], parts: list[slice]) -> Rows:
    """Looks up blocks of rows in the lower half of a symmetric matrix."""
    at = {part.start: k for k, part in enumerate(parts)}
    return lambda part: row_block(lower, parts, at[part.start])


def _inverse_by_users(
    matrix: csr_matrix, regularization: float, log: Callable[[str], None]
) -> Rows:
    """The same rows by the Woodbury identity, (I - Xᵀ(XXᵀ + λI)⁻¹X) / λ: cheap for few users."""
    users, n_items = matrix.shape
    by_item = matrix.T.tocsr()
    whole = np.zeros((0, 0), dtype=np.float32)
    if users:
        lower = gram(by_item)
        parts = blocks(users)
        _add_to_diagonal(lower, parts, regularization)
        invert(lower, log)
        whole = np.vstack([row_block(lower, parts, k) for k in range(len(parts))])

    def columns(part: slice, first: int) -> Float32:
        """(n_items - first, width): from row `first` on."""
        half = np.ascontiguousarray((by_item[part] @ whole).T)  # (users, width)
        out: Float32 = by_item[first:] @ half
        out /= np.float32(-regularization)
        width = np.arange(part.stop - part.start)
        out[width + part.start - first, width] += np.float32(1 / regularization)
        return out

    if n_items > MAX_KEPT_ITEMS:
        return lambda part: transposed(columns(part, 0))
    parts = blocks(n_items)
    lower = [np.empty((part.stop - part.start, part.stop), np.float32) for part in parts]

    def fill(k: int) -> None:
        """From the diagonal down: the items there are less popular, so their rows are short."""
        below = columns(parts[k], parts[k].start)
        for rows, part in zip(lower[k:], parts[k:], strict=True):
            rows[:, parts[k]] = below[part.start - parts[k].start : part.stop - parts[k].start]

    for_each(fill, range(len(parts)))
    return _rows_of(lower, parts)


def transposed(block: Float32) -> Float32:
    """A C-contiguous transpose."""
    out = np.empty(block.shape[::-1], dtype=np.float32)
    _transpose(block, out)
    return out


def gram(matrix: csr_matrix) -> list[Float32]:
    """XᵀX of a (rows, n) matrix, as `invert` takes it: the rows that each two columns share."""
    n = matrix.shape[1]
    parts = blocks(n)
    is_long = np.diff(matrix.indptr) * LONG > n
    long, short = matrix[is_long], matrix[~is_long]
    by_column = short.T.tocsr()
    lower: list[Float32] = [np.empty((0, 0), np.float32)] * len(parts)

    def multiply(i: int) -> None:
        width = parts[i].stop
        left = short[:, :width]
        out = np.empty((width - parts[i].start, width), dtype=np.float32)
        step = max(1, SUMS // width)
        for first in range(0, len(out), step):
            some = out[first : first + step]
            start = parts[i].start + first
            some[:] = _dense_product(by_column[start : start + len(some)], left)
        for first in range(0, long.shape[0], ROWS):
            rows = long[first : first + ROWS, :width].toarray()
            out += np.ascontiguousarray(rows[:, parts[i].start :].T) @ rows
        lower[i] = out

    for_each(multiply, range(len(parts) - 1, -1, -1))
    return lower


def _dense_product(columns: csr_matrix, matrix: csr_matrix) -> Float32:
    """The dense product, summed in place: half the time of a sparse product."""
    width = matrix.shape[1]
    sums = np.zeros(columns.shape[0] * width, dtype=np.float32)
    # The rows of the product are one long vector.
    offsets = np.repeat(
        np.arange(columns.shape[0], dtype=np.int32) * np.int32(width), np.diff(columns.indptr)
    )
    lengths = np.diff(matrix.indptr)[columns.indices]
    for part in pieces(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), ENTRIES):
        added = matrix[columns.indices[part]]
        places = added.indices + np.repeat(offsets[part], lengths[part])
        by_row = csc_matrix((added.data, places, added.indptr), shape=(len(sums), added.shape[0]))
        sums += by_row @ columns.data[part]
    return sums.reshape(-1, width)


def _add_to_diagonal(lower: list[Float32], parts: list[slice], value: float) -> None:
    for part, rows in zip(parts, lower, strict=True):
        rows[np.arange(len(rows)), np.arange(part.start, part.stop)] += value
