"""Item-item weights by ridge regression without self-loops.

Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, csr_matrix, hstack, vstack

from batchrec_dagster.local_personalize.learning.pruning import largest, largest_of_dense, newest
from batchrec_dagster.local_personalize.learning.threads import (
    each,
    ordered_map,
    pieces,
    single_threaded_blas,
)

Float32 = npt.NDArray[np.float32]

BLOCK = 512
STRIPE = 2048  # columns multiplied at once: the product stays in the cache


def blocks(n: int) -> list[slice]:
    """The row blocks that a matrix of n rows is cut into."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def invert(lower: list[Float32], log: Callable[[str], None] = lambda _: None) -> None:
    """Replace a symmetric positive definite matrix by its inverse.

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
    across = np.ascontiguousarray(column_block(lower, parts, k).T)  # (b, n)
    square = across[:, pivot].astype(np.float64)
    np.linalg.cholesky(square)  # only to refuse what is not positive definite
    inverse = np.linalg.inv(square).astype(np.float32)
    scaled = np.empty_like(across)

    def scale(part: slice) -> None:
        np.matmul(inverse, across[:, part], out=scaled[:, part])

    each(scale, parts)

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

    # The longest rows first, so that no core is left alone with one at the end.
    each(update, range(len(parts) - 1, -1, -1))
    lower[k][:, : pivot.start] = scaled[:, : pivot.start]
    lower[k][:, pivot] = -inverse


def column_block(lower: list[Float32], parts: list[slice], k: int) -> Float32:
    """The full columns (n, b) of block k, put together from the lower half."""
    pivot = parts[k]
    n = parts[-1].stop
    out = np.empty((n, pivot.stop - pivot.start), dtype=np.float32)
    out[: pivot.stop] = lower[k].T
    for i in range(k + 1, len(parts)):
        out[parts[i]] = lower[i][:, pivot]
    return out


Columns = Callable[[slice], Float32]

# Of XᵀX, the products added at once, and the sums kept meanwhile: a few MiB of each.
ENTRIES = 1 << 20
SUMS = 1 << 20


def fit(
    matrix: csr_matrix,
    *,
    core: int,
    regularization: float,
    kept: int,
    log: Callable[[str], None] = lambda _: None,
) -> csr_matrix:
    """Weights (n_items, n_items) float32: row = an item met, column = an item to score.

    `matrix` is (users, n_items), ones where a user met an item: the most popular items first, the
    entries of a row from new to old. The first `core` items are regressed on each other together,
    as in the paper; a pair with an item outside is a regression of one on the other alone, over
    the newest of each user (`cutting.newest`). `kept` of the largest weights stay for each item
    scored: they carry the accuracy, and scoring costs in proportion to them.
    """
    n_items = matrix.shape[1]
    core = min(core, n_items)
    if n_items < 2:
        return csr_matrix((n_items, n_items), dtype=np.float32)
    inside = matrix[:, :core]
    columns = (
        _inverse_by_users(inside, regularization, log)
        if matrix.shape[0] < core
        else _inverse_by_items(inside, regularization, log)
    )
    shrink = _shrink(matrix, regularization)
    paired = newest(matrix)
    by_item = paired.T.tocsr()
    outside = paired[:, core:]

    def weights(part: slice) -> csr_matrix:
        """(width, n_items): the weights of the items of a block, which lies on one side."""
        width = np.arange(part.stop - part.start)
        single = by_item[part] @ (outside if part.start < core else paired)
        single.data *= shrink[single.indices + (core if part.start < core else 0)]
        if part.start >= core:
            single.data[single.indices == np.repeat(width + part.start, np.diff(single.indptr))] = 0
            return largest(single, kept)
        block = columns(part)  # (core, width)
        rows = np.empty(block.shape[::-1], dtype=np.float32)
        np.divide(block.T, -block[width + part.start, width][:, None], out=rows)
        rows[width, width + part.start] = 0
        together = largest_of_dense(rows, kept)
        if core < n_items:
            together = largest(hstack([together, single], format="csr"), kept)
        return together

    parts = blocks(core)
    parts += [slice(core + part.start, core + part.stop) for part in blocks(n_items - core)]
    by_target = vstack(list(ordered_map(weights, parts)), format="csr")
    out: csr_matrix = by_target.T.tocsr()
    out.sort_indices()
    return out


def extend(
    weights: csr_matrix,
    was: npt.NDArray[np.int32],
    matrix: csr_matrix,
    *,
    regularization: float,
    kept: int,
) -> csr_matrix:
    """Weights of an earlier `fit` with items added, in the order of the columns of `matrix`.

    `was` (n_items,) says where each item stood in `weights`, -1 when it is new. New items are
    regressed on each item alone, and each item on them, as outside the core of `fit`.
    """
    n_items = matrix.shape[1]
    new = np.flatnonzero(was < 0)
    now = np.full(weights.shape[0], -1, dtype=np.int64)
    now[was[was >= 0]] = np.flatnonzero(was >= 0)
    old = weights.tocoo()
    stays = (now[old.row] >= 0) & (now[old.col] >= 0)
    moved = csr_matrix(
        (old.data[stays], (now[old.col[stays]], now[old.row[stays]])), shape=(n_items, n_items)
    )
    shrink = _shrink(matrix, regularization)
    paired = newest(matrix)
    by_item = paired.T.tocsr()
    is_new = np.zeros(n_items, dtype=bool)
    is_new[new] = True
    on_new, on_old = _only(paired, is_new), _only(paired, ~is_new)

    def rows(part: slice) -> csr_matrix:
        """(width, n_items): the weights of the items of a block, as of `fit`."""
        single = by_item[part] @ on_new
        fresh = new[(new >= part.start) & (new < part.stop)]
        if len(fresh):
            ones, place = np.ones(len(fresh), np.float32), np.arange(len(fresh))
            spread = csr_matrix(
                (ones, (fresh - part.start, place)), shape=(part.stop - part.start, len(fresh))
            )
            single = single + spread @ (by_item[fresh] @ on_old)
        single.data *= shrink[single.indices]
        together = (moved[part] + single).tocsr()
        row = np.repeat(np.arange(part.start, part.stop), np.diff(together.indptr))
        together.data[together.indices == row] = 0
        return largest(together, kept)

    by_target = vstack(list(ordered_map(rows, blocks(n_items))), format="csr")
    out: csr_matrix = by_target.T.tocsr()
    out.sort_indices()
    return out


def _shrink(matrix: csr_matrix, regularization: float) -> Float32:
    """(n_items,): what a regression on an item alone divides by, inverted."""
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return np.asarray(1 / (counts + regularization).astype(np.float32))


def _only(matrix: csr_matrix, columns: npt.NDArray[np.bool_]) -> csr_matrix:
    """The matrix with the other columns empty."""
    out = matrix.copy()
    out.data[~columns[out.indices]] = 0
    out.eliminate_zeros()
    return out


def _inverse_by_items(
    matrix: csr_matrix, regularization: float, log: Callable[[str], None]
) -> Columns:
    """Columns of (XᵀX + λI)⁻¹, inverted as it stands: memory for half of items x items."""
    lower = gram(matrix)
    parts = blocks(matrix.shape[1])
    _add_to_diagonal(lower, parts, regularization)
    invert(lower, log)
    at = {part.start: k for k, part in enumerate(parts)}
    return lambda part: column_block(lower, parts, at[part.start])


def _inverse_by_users(
    matrix: csr_matrix, regularization: float, log: Callable[[str], None]
) -> Columns:
    """The same columns as (I - Xᵀ(XXᵀ + λI)⁻¹X) / λ: cheap where users are fewer than items."""
    users = matrix.shape[0]
    by_item = matrix.T.tocsr()
    whole = np.zeros((0, 0), dtype=np.float32)
    if users:
        lower = gram(by_item)
        parts = blocks(users)
        _add_to_diagonal(lower, parts, regularization)
        invert(lower, log)
        whole = np.hstack([column_block(lower, parts, k) for k in range(len(parts))])

    def columns(part: slice) -> Float32:
        half = np.ascontiguousarray((by_item[part] @ whole).T)  # (users, width)
        out: Float32 = by_item @ half
        np.negative(out, out=out)
        width = np.arange(part.stop - part.start)
        out[width + part.start, width] += 1
        out /= np.float32(regularization)
        return out

    return columns


def gram(matrix: csr_matrix) -> list[Float32]:
    """XᵀX of (rows, n) as `inverse.invert` takes it: how many rows each two columns share."""
    parts = blocks(matrix.shape[1])
    by_column = matrix.T.tocsr()
    lower: list[Float32] = [np.empty((0, 0), np.float32)] * len(parts)

    def multiply(i: int) -> None:
        width = parts[i].stop
        left = matrix[:, :width]
        out = np.empty((width - parts[i].start, width), dtype=np.float32)
        step = max(1, SUMS // width)
        for first in range(0, len(out), step):
            some = out[first : first + step]
            start = parts[i].start + first
            some[:] = _dense_product(by_column[start : start + len(some)], left)
        lower[i] = out

    each(multiply, range(len(parts) - 1, -1, -1))
    return lower


def _dense_product(columns: csr_matrix, matrix: csr_matrix) -> Float32:
    """Their product, dense: added up where it is, which takes half the time of a sparse product."""
    width = matrix.shape[1]
    sums = np.zeros(columns.shape[0] * width, dtype=np.float32)
    # Each column's sums have a stretch of one long vector.
    stretch = np.repeat(
        np.arange(columns.shape[0], dtype=np.int32) * np.int32(width), np.diff(columns.indptr)
    )
    lengths = np.diff(matrix.indptr)[columns.indices]
    for part in pieces(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), ENTRIES):
        added = matrix[columns.indices[part]]
        places = added.indices + np.repeat(stretch[part], lengths[part])
        by_row = csc_matrix((added.data, places, added.indptr), shape=(len(sums), added.shape[0]))
        sums += by_row @ columns.data[part]
    return sums.reshape(-1, width)


def _add_to_diagonal(lower: list[Float32], parts: list[slice], value: float) -> None:
    for part, rows in zip(parts, lower, strict=True):
        rows[np.arange(len(rows)), np.arange(part.start, part.stop)] += value
