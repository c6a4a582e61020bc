"""sparse_matmul, compared with the dense product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import components


def drawn(rows: int, columns: int, density: float, rng: np.random.Generator) -> csr_matrix:
    """A random matrix, some rows of which are empty."""
    dense = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < density)
    dense[rng.random(rows) < 0.2] = 0
    return csr_matrix(dense.astype(np.float32))


@given(
    users=st.integers(0, 9),
    items=st.integers(1, 12),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
@settings(deadline=None)
def test_matches_the_dense_product(users: int, items: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = drawn(users, items, density, rng)
    rows = drawn(items, items + 3, density, rng)
    rows.data.flags.writeable = False  # as in a memory map
    products = components.sparse_matmul([weights, weights * np.float32(2)], rows)
    [alone] = components.sparse_matmul([weights], rows)
    assert {product.dtype for product in (*products, alone)} == {np.dtype(np.float32)}
    once, twice = products
    assert alone == pytest.approx(once, abs=1e-5)
    assert once == pytest.approx(weights.toarray() @ rows.toarray(), abs=1e-5)
    assert np.array_equal(twice, 2 * once)


def test_adds_to_scores_in_place() -> None:
    rng = np.random.default_rng(0)
    weights, rows = drawn(5, 9, 0.5, rng), drawn(9, 9, 0.5, rng)
    before = rng.random((5, 12)).astype(np.float32)
    after = before.copy()
    [found] = components.sparse_matmul([weights], rows, [after[:, :9]])
    assert np.shares_memory(found, after)
    expected = before[:, :9] + weights.toarray() @ rows.toarray()
    assert after[:, :9] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(after[:, 9:], before[:, 9:])


def test_adds_an_item_that_a_history_has_twice_again() -> None:
    rows = csr_matrix(np.array([[1, 0, 2], [0, 3, 0]], dtype=np.float32))
    entries = np.array([1, 10, 100], dtype=np.float32), np.array([0, 1, 0]), np.array([0, 0, 3])
    [product] = components.sparse_matmul([csr_matrix(entries, shape=(2, 2))], rows)
    assert product.tolist() == [[0, 0, 0], [101, 30, 202]]
