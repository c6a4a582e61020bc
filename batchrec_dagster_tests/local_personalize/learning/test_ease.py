"""The blocked inverse and EASE, compared with plain versions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import inverse, low_rank
from batchrec_dagster_tests.local_personalize.learning.support import fit_ease
from batchrec_dagster_tests.repeats import repeats

Float64 = npt.NDArray[np.float64]


def lower_blocks(matrix: Float64) -> list[npt.NDArray[np.float32]]:
    """A symmetric matrix as `invert` takes it."""
    return [
        np.ascontiguousarray(matrix[part, : part.stop], dtype=np.float32)
        for part in inverse.blocks(len(matrix))
    ]


def whole(lower: list[npt.NDArray[np.float32]], n: int) -> Float64:
    """The symmetric matrix of such blocks."""
    parts = inverse.blocks(n)
    return np.vstack([inverse.row_block(lower, parts, k) for k in range(len(parts))]).astype(
        np.float64
    )


def random_matrix(users: int, items: int, density: float, seed: int) -> csr_matrix:
    """Random interactions, the most popular item first."""
    met = np.random.default_rng(seed).random((users, items)) < density
    met = met[:, np.argsort(-met.sum(axis=0), kind="stable")]
    return csr_matrix(met.astype(np.float32))


def plain_ease(matrix: csr_matrix, regularization: float) -> Float64:
    """EASE as in the paper."""
    dense = matrix.toarray().astype(np.float64)
    precision = np.linalg.inv(dense.T @ dense + regularization * np.eye(dense.shape[1]))
    weights = precision / -np.diagonal(precision)
    np.fill_diagonal(weights, 0)
    return np.asarray(weights)


@pytest.mark.parametrize("block", [1, 3, 8, 64])
@given(n=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_invert_matches_numpy(block: int, n: int, seed: int) -> None:
    half = np.random.default_rng(seed).normal(size=(n, n))
    matrix = half @ half.T + np.eye(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverse, "BLOCK", block)
        lower = lower_blocks(matrix)
        inverse.invert(lower)
        assert whole(lower, n) == pytest.approx(np.linalg.inv(matrix), abs=1e-4)


def test_invert_with_many_blocks_and_stripes() -> None:
    n = 3 * inverse.BLOCK + 7
    half = np.random.default_rng(0).normal(size=(n, 50))
    matrix = half @ half.T + 20 * np.eye(n)
    lower = lower_blocks(matrix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverse, "STRIPE", 700)
        inverse.invert(lower)
    assert np.abs(whole(lower, n) @ matrix - np.eye(n)).max() < 1e-3


@pytest.mark.parametrize(
    "matrix",
    [
        [[-1.0]],
        [[1.0, 2.0], [2.0, 1.0]],
        [[-1 / 3, 2 / 3], [2 / 3, -1 / 3]],  # its inverse has a positive diagonal
        [[0.0, 0.0], [0.0, 0.0]],
    ],
)
@pytest.mark.parametrize("block", [1, 2])
def test_a_matrix_that_is_not_positive_definite_raises(
    matrix: list[list[float]], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverse, "BLOCK", block)
        lower = lower_blocks(np.array(matrix))
        with pytest.raises(np.linalg.LinAlgError):
            inverse.invert(lower)


@given(
    users=st.integers(0, 25),
    items=st.integers(2, 15),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
    block=st.sampled_from([2, 5, 64]),
    long=st.sampled_from([0, 2, 12]),
    kept=st.sampled_from([0, 99]),
)
@settings(max_examples=repeats(60, 15), deadline=None)
def test_ease_matches_the_paper(
    users: int, items: int, density: float, seed: int, block: int, long: int, kept: int
) -> None:
    """With fewer users than items and with more: all ways to the inverse."""
    matrix = random_matrix(users, items, density, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverse, "BLOCK", block)
        patch.setattr(inverse, "LONG", long)
        patch.setattr(inverse, "ROWS", 3)
        patch.setattr(inverse, "MAX_KEPT_ITEMS", kept)
        weights = fit_ease(matrix, core=items, regularization=3.0, neighbors=items)
    assert weights.toarray() == pytest.approx(plain_ease(matrix, 3.0), abs=1e-4)


def test_each_item_keeps_its_largest_weights() -> None:
    matrix = random_matrix(60, 20, 0.3, 0)
    weights = fit_ease(matrix, core=20, regularization=3.0, neighbors=4).toarray()
    plain = plain_ease(matrix, 3.0)
    for target in range(20):
        kept = np.flatnonzero(weights[:, target])
        assert set(kept) == set(np.argsort(-np.abs(plain[:, target]))[:4])
        assert weights[kept, target] == pytest.approx(plain[kept, target], abs=1e-4)


@given(
    users=st.integers(1, 40),
    added=st.integers(0, 5),
    density=st.floats(0.1, 0.9),
    seed=st.integers(0, 99),
    block=st.sampled_from([2, 512]),
)
@settings(max_examples=repeats(60, 15), deadline=None)
def test_rows_added_later_give_the_inverse_of_all(
    users: int, added: int, density: float, seed: int, block: int
) -> None:
    """With fewer users than items and with more."""
    matrix = random_matrix(users + added, 20, density, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverse, "BLOCK", block)
        some = inverse.invert_gram(matrix[:users], 3.0)
        some.add(matrix[users:])
        rows = some.rows()
        found = np.vstack([rows(part) for part in inverse.blocks(20)])
        gram = (matrix.T @ matrix).toarray() + 3.0 * np.eye(20)
        assert found == pytest.approx(np.linalg.inv(gram), abs=1e-5)


@pytest.mark.parametrize(("users", "items"), [(20, 9), (9, 20)])
def test_rows_are_added_only_where_that_is_cheaper(users: int, items: int) -> None:
    some = inverse.invert_gram(random_matrix(users, items, 0.5, 0), 3.0)
    assert some.can_add(3)
    assert not some.can_add(4)


@pytest.mark.parametrize("items", [0, 1])
def test_fewer_than_two_items_have_no_weights(items: int) -> None:
    weights = fit_ease(
        csr_matrix((3, items), dtype=np.float32), core=10, regularization=1.0, neighbors=5
    )
    assert weights.shape == (items, items)
    assert weights.nnz == 0


@given(
    users=st.integers(1, 25),
    items=st.integers(2, 15),
    core=st.integers(0, 15),
    neighbors=st.integers(1, 15),
    seed=st.integers(0, 99),
)
@settings(max_examples=repeats(40, 10), deadline=None)
def test_pairs_outside_the_core_have_the_weights_of_all_where_users_share_them(
    users: int, items: int, core: int, neighbors: int, seed: int
) -> None:
    """All eigenvectors of so few items are known, so nothing is approximated."""
    matrix = random_matrix(users, items, 0.3, seed)
    dense = matrix.toarray().astype(np.float64)
    plain = plain_ease(matrix, 3.0) * (dense.T @ dense > 0)
    core = min(core, items)
    plain[:core, :core] = plain_ease(matrix[:, :core], 3.0) if core else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverse, "BLOCK", 4)
        found = fit_ease(matrix, core=core, regularization=3.0, neighbors=neighbors).toarray()
    for target in range(items):
        size = np.abs(plain[:, target])
        least = np.sort(size)[::-1][min(neighbors, items) - 1]
        stays = found[:, target] != 0
        assert found[stays, target] == pytest.approx(plain[stays, target], abs=1e-4)
        assert (size[stays] >= least - 1e-4).all()
        assert stays[size > least + 1e-4].all()


def test_thirty_thousand_items() -> None:
    """Far above where LAPACK's factorization of the whole crashes (12,000 to 27,000 rows)."""
    rng = np.random.default_rng(0)
    users, items = 40, 30_000
    met = rng.integers(0, items, (users, 60))
    matrix = csr_matrix(
        (np.ones(met.size, np.float32), met.ravel(), np.arange(0, met.size + 1, 60)),
        shape=(users, items),
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    matrix = matrix[:, np.argsort(-np.diff(matrix.tocsc().indptr), kind="stable")].tocsr()
    weights = fit_ease(matrix, core=1_500, regularization=20.0, neighbors=50)
    assert weights.shape == (items, items)
    assert np.isfinite(weights.data).all()
    kernel = (matrix @ matrix.T).toarray().astype(np.float64) + 20 * np.eye(users)
    two = matrix[:, [0, 29_999]].toarray().astype(np.float64)
    precision = np.eye(2) - two.T @ np.linalg.solve(kernel, two)
    assert weights[0, 29_999] == pytest.approx(-precision[0, 1] / precision[1, 1], rel=1e-3)


def test_a_small_core_is_about_as_accurate_as_all_items() -> None:
    """Items in groups of taste; the weights of pairs outside the core are approximate."""
    rng = np.random.default_rng(0)
    users, items, groups = 600, 400, 8
    popular = (np.arange(items) + 5.0) ** -0.8
    likes = np.where(np.arange(users)[:, None] % groups == np.arange(items) % groups, 0.9, 0.1)
    matrix = csr_matrix((rng.random((users, items)) < popular * likes * 4).astype(np.float32))
    matrix = matrix[:, np.argsort(-np.asarray(matrix.sum(axis=0)).ravel(), kind="stable")].tocsr()
    exact = plain_ease(matrix, 50.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(low_rank, "RANK", 16)
        found = fit_ease(matrix, core=40, regularization=50.0, neighbors=items).toarray()
    outside = np.ones_like(exact, dtype=bool)
    outside[:40, :40] = False
    shared = outside & ((matrix.T @ matrix).toarray() > 0)
    assert np.corrcoef(found[shared], exact[shared])[0, 1] > 0.9
