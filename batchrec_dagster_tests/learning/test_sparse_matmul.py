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
    entries=st.sampled_from([1, 7, 30, 10_000]),
    seed=st.integers(0, 999),
)
@settings(deadline=None)
def test_matches_the_dense_product(
    users: int, items: int, density: float, entries: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = drawn(users, items, density, rng)
    rows = drawn(items, items + 3, density, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "ENTRIES", entries)
        both = components.sparse_matmul([weights, weights * np.float32(2)], rows)
    assert {each.dtype for each in both} == {np.dtype(np.float32)}
    once, twice = both
    assert once == pytest.approx(weights.toarray() @ rows.toarray(), abs=1e-5)
    assert np.array_equal(twice, 2 * once)
