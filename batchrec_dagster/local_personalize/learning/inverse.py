"""(XᵀX + λI)⁻¹ of a sparse matrix X, block by block, in half the memory of a square matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, vstack

from .interactions import Float32
from .threads import for_each, single_threaded_blas, split_rows

BLOCK = 512  # rows
TILE = 16  # float32 in a line of the cache
STRIPE = 2048  # columns multiplied at once, so that the product stays in the cache

# InverseByUsers keeps half of the inverse of up to this many items, which takes 0.6 GB. The columns
# of more items are multiplied twice instead.
MAX_KEPT_ITEMS = 17_000

# Products of XᵀX that are added at once, and sums in memory meanwhile: a few MiB of each.
ENTRIES = 1 << 20
SUMS = 1 << 20

# Rows of X with more than one entry in LONG columns are multiplied as dense ones, ROWS at once.
# Adding up a product of two entries takes about as long as LONG products within BLAS.
LONG = 12
ROWS = 1024

# If more new rows than this share of its rows or columns are added to an inverse, another inverse
# takes less time.
MAX_ADDED = 1 / 3

Rows = Callable[[slice], Float32]  # gives the (width, n) rows of a block of `blocks(n)`
Log = Callable[[str], None]


class InverseByItems:
    """The inverse of XᵀX + λI itself, which takes half of items x items in memory."""

    def __init__(self, matrix: csr_matrix, regularization: float, log: Log) -> None:
        self.n: int = matrix.shape[1]
        self._lower = _lower_inverse(matrix, regularization, log)

    def rows(self) -> Rows:
        """Looks up rows of the inverse."""
        return _row_reader(self._lower)

    def can_add(self, count: int) -> bool:
        """Whether adding this many rows takes less time than another inverse."""
        return count <= self.n * MAX_ADDED

    def add(self, rows: csr_matrix) -> None:
        """Let X have more rows. The inverse P becomes P - P Uᵀ (I + U P Uᵀ)⁻¹ U P (Woodbury).

        rows: U, (r, n).
        """
        lower, parts, read_rows = self._lower, blocks(self.n), self.rows()
        products = np.empty(rows.shape, dtype=np.float32)  # U P

        def multiply(part: slice) -> None:
            products[:, part] = rows @ transpose(read_rows(part))

        for_each(multiply, parts)
        inner = (rows @ transpose(products)).astype(np.float64)
        inner[np.diag_indices(len(inner))] += 1
        with single_threaded_blas():
            half = np.linalg.inv(np.linalg.cholesky(inner)).astype(np.float32)

        def halve(part: slice) -> None:
            products[:, part] = half @ products[:, part]

        for_each(halve, parts)

        def subtract(i: int) -> None:
            _subtract_product(lower[i], transpose(products[:, parts[i]]), products)

        for_each(subtract, range(len(parts) - 1, -1, -1))


class InverseByUsers:
    """The inverse as (I - Xᵀ(XXᵀ + λI)⁻¹X) / λ, which is cheap for few users (Woodbury)."""

    def __init__(self, matrix: csr_matrix, regularization: float, log: Log) -> None:
        self.n: int = matrix.shape[1]
        self._matrix, self._regularization = matrix, regularization
        lower = _lower_inverse(matrix.T.tocsr(), regularization, log)
        self._square = _assemble_square(lower)  # (users, users) (XXᵀ + λI)⁻¹

    def rows(self) -> Rows:
        """Looks up rows of the inverse. Half of it is computed here, if it is not too large."""
        by_item, square, n = self._matrix.T.tocsr(), self._square, self.n
        regularization = np.float32(self._regularization)

        def columns(part: slice, first: int) -> Float32:
            """(n - first, width): the columns of a block, from row `first` on."""
            half = transpose(by_item[part] @ square)  # (users, width)
            inverse: Float32 = by_item[first:] @ half
            inverse /= -regularization
            width = np.arange(part.stop - part.start)
            inverse[width + part.start - first, width] += 1 / regularization
            return inverse

        if n > MAX_KEPT_ITEMS:
            return lambda part: transpose(columns(part, 0))
        parts = blocks(n)
        lower = [np.empty((part.stop - part.start, part.stop), np.float32) for part in parts]

        def fill(k: int) -> None:
            """Fill the columns of block k from the diagonal down.

            The items there are less popular, so their rows are short.
            """
            below = columns(parts[k], parts[k].start)
            for rows, part in zip(lower[k:], parts[k:], strict=True):
                rows[:, parts[k]] = below[part.start - parts[k].start : part.stop - parts[k].start]

        for_each(fill, range(len(parts)))
        return _row_reader(lower)

    def can_add(self, count: int) -> bool:
        """Whether adding this many rows takes less time than another inverse."""
        return count <= len(self._square) * MAX_ADDED

    def add(self, rows: csr_matrix) -> None:
        """Let X have more rows. It is the inverse of a matrix in four blocks.

        rows: (r, n).
        """
        old, count = self._square, len(self._square)
        across = (self._matrix @ rows.T).toarray()  # (users, r)
        new_gram = (rows @ rows.T).toarray().astype(np.float64)
        new_gram[np.diag_indices(len(new_gram))] += self._regularization
        square = np.empty((count + len(new_gram),) * 2, dtype=np.float32)
        product = np.empty_like(across)

        def multiply(part: slice) -> None:
            product[part] = old[part] @ across

        for_each(multiply, blocks(count))
        with single_threaded_blas():
            corner = np.linalg.inv(new_gram - across.T @ product).astype(np.float32)

        def update(part: slice) -> None:
            side = product[part] @ corner
            square[part, :count] = old[part] + side @ product.T
            square[part, count:] = -side
            square[count:, part] = -side.T

        for_each(update, blocks(count))
        square[count:, count:] = corner
        self._matrix = vstack([self._matrix, rows], format="csr")
        self._square = square


Inverse = InverseByItems | InverseByUsers


def invert_gram(matrix: csr_matrix, regularization: float, log: Log = lambda _: None) -> Inverse:
    """(XᵀX + λI)⁻¹ of X (rows, n), by its columns, or by its rows where they are fewer."""
    inverse_class = InverseByUsers if matrix.shape[0] < matrix.shape[1] else InverseByItems
    return inverse_class(matrix, regularization, log)


def blocks(n: int) -> list[slice]:
    """The blocks of n rows."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def invert(lower: list[Float32], log: Log = lambda _: None) -> None:
    """Invert a symmetric positive definite matrix in place.

    Raises numpy.linalg.LinAlgError when the matrix is not positive definite.

    lower: the lower half of the matrix, block by block. lower[i] has the rows of `blocks(n)[i]`
        from column 0 to the block's end, as C-contiguous float32.
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
    """Eliminate the rows of block k, the pivot, from the others (the sweep operator)."""
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
        _subtract_product(lower[i], weights, across)
        if i > k:
            lower[i][:, pivot] = weights

    # The longest rows first, so that all cores finish at about the same time.
    for_each(update, range(len(parts) - 1, -1, -1))
    lower[k][:, : pivot.start] = scaled[:, : pivot.start]
    lower[k][:, pivot] = -inverse


def _subtract_product(rows: Float32, weights: Float32, across: Float32) -> None:
    """Subtract the matrix product of weights and `across` from the rows, in place.

    rows: (b, m), of which `across` may have more columns.
    weights: (b, c).
    across: (c, m or more).
    """
    buffer = np.empty((len(weights), STRIPE), dtype=np.float32)
    for start in range(0, rows.shape[1], STRIPE):
        stripe = rows[:, start : start + STRIPE]
        product = buffer[:, : stripe.shape[1]]
        np.matmul(weights, across[:, start : start + stripe.shape[1]], out=product)
        np.subtract(stripe, product, out=stripe)


def row_block(lower: list[Float32], parts: list[slice], k: int) -> Float32:
    """The full rows (b, n) of block k, from the lower half."""
    pivot = parts[k]
    rows = np.empty((pivot.stop - pivot.start, parts[-1].stop), dtype=np.float32)
    rows[:, : pivot.stop] = lower[k]
    for i in range(k + 1, len(parts)):
        _transpose_into(lower[i][:, pivot], rows[:, parts[i]])
    return rows


def _transpose_into(block: Float32, out: Float32) -> None:
    """Write the transpose to `out`, a line of the cache at a time, which takes half the time."""
    for start in range(0, len(block), TILE):
        out[:, start : start + TILE] = block[start : start + TILE].T


def _lower_inverse(matrix: csr_matrix, regularization: float, log: Log) -> list[Float32]:
    """The lower half of (XᵀX + λI)⁻¹."""
    lower = gram(matrix)
    for rows in lower:
        row = np.arange(len(rows))
        rows[row, rows.shape[1] - len(rows) + row] += regularization
    invert(lower, log)
    return lower


def _row_reader(lower: list[Float32]) -> Rows:
    """Looks up blocks of rows in the lower half of a symmetric matrix."""
    parts = blocks(lower[-1].shape[1]) if lower else []
    return lambda part: row_block(lower, parts, part.start // BLOCK)


def _assemble_square(lower: list[Float32]) -> Float32:
    """(n, n): the whole of a symmetric matrix, from its lower half."""
    if not lower:
        return np.zeros((0, 0), dtype=np.float32)
    read_rows = _row_reader(lower)
    return np.vstack([read_rows(part) for part in blocks(lower[-1].shape[1])])


def transpose(block: Float32) -> Float32:
    """A C-contiguous transpose."""
    out = np.empty(block.shape[::-1], dtype=np.float32)
    _transpose_into(block, out)
    return out


def gram(matrix: csr_matrix) -> list[Float32]:
    """XᵀX, the number of rows that each two columns share, as `invert` takes it.

    matrix: X, (rows, n) of ones.
    """
    n = matrix.shape[1]
    parts = blocks(n)
    is_long = np.diff(matrix.indptr) * LONG > n
    long, short = matrix[is_long], matrix[~is_long]
    by_column = short.T.tocsr()
    lower: list[Float32] = [np.empty((0, 0), np.float32)] * len(parts)

    def multiply(i: int) -> None:
        width = parts[i].stop
        left = short[:, :width]
        block = np.empty((width - parts[i].start, width), dtype=np.float32)
        step = max(1, SUMS // width)
        for first in range(0, len(block), step):
            block_rows = block[first : first + step]
            start = parts[i].start + first
            block_rows[:] = _dense_product(by_column[start : start + len(block_rows)], left)
        for first in range(0, long.shape[0], ROWS):
            rows = long[first : first + ROWS, :width].toarray()
            block += np.ascontiguousarray(rows[:, parts[i].start :].T) @ rows
        lower[i] = block

    for_each(multiply, range(len(parts) - 1, -1, -1))
    return lower


def _dense_product(columns: csr_matrix, matrix: csr_matrix) -> Float32:
    """The dense product (c, n), summed in place in half the time of a sparse product.

    columns: (c, rows).
    matrix: (rows, n).
    """
    width = matrix.shape[1]
    sums = np.zeros(columns.shape[0] * width, dtype=np.float32)
    # The rows of the product are one long vector.
    offsets = np.repeat(
        np.arange(columns.shape[0], dtype=np.int32) * np.int32(width), np.diff(columns.indptr)
    )
    lengths = np.diff(matrix.indptr)[columns.indices]
    for part in split_rows(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), ENTRIES):
        rows = matrix[columns.indices[part]]
        places = rows.indices + np.repeat(offsets[part], lengths[part])
        by_row = csc_matrix((rows.data, places, rows.indptr), shape=(len(sums), rows.shape[0]))
        sums += by_row @ columns.data[part]
    return sums.reshape(-1, width)
