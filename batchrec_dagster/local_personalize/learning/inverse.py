"""The inverse of a large symmetric positive definite matrix, in place, in half the memory.

A blocked sweep (Gauss-Jordan without pivoting; stable for such matrices): each pivot block of
columns is swept out of the whole lower triangle by matrix products, n^3 floating point operations
in all, as many as an inverse by Cholesky. Every product is small: LAPACK's own spotrf, given 27,000
rows, crashes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from batchrec_dagster.local_personalize.learning.threads import each, single_threaded_blas

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
