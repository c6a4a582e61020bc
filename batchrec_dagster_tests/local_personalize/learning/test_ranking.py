"""Top k of each row, compared with a sort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from batchrec_dagster.local_personalize.learning.ranking import top_k
from batchrec_dagster_tests.guard.repeats import repeats

Float32 = npt.NDArray[np.float32]


def rank_items(scores: Float32, k: int) -> list[list[int]]:
    """By falling score, then rising column; -1 pads."""
    out = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda column: (-row[column], column))
        chosen = [column for column in order if row[column] > -np.inf][:k]
        out.append(chosen + [-1] * (k - len(chosen)))
    return out


# Few distinct values, so that ties are everywhere.
tied_scores = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]),
)


@given(tied_scores, st.integers(0, 15))
def test_top_k_matches_a_sort(scores: Float32, k: int) -> None:
    assert top_k(scores, k).tolist() == rank_items(scores, k)


def drawn(kind: str, rows: int, n: int, seed: int) -> Float32:
    """Rows that are long enough for groups."""
    rng = np.random.default_rng(seed)
    if kind == "distinct":
        scores = rng.permuted(np.tile(np.arange(n) - n / 2, (rows, 1)), axis=1)
    elif kind == "many ties":
        scores = rng.integers(-3, 4, (rows, n)).astype(np.float64) * rng.choice([-1, 1], (rows, 1))
    elif kind == "mostly nothing":
        scores = np.where(rng.random((rows, n)) < 30 / n, rng.integers(1, 9, (rows, n)), 0.0)
    elif kind == "mostly forbidden":
        scores = np.where(rng.random((rows, n)) < 20 / n, rng.normal(size=(rows, n)), -np.inf)
    else:
        scores = rng.normal(size=(rows, n)).round(1)
        scores[rng.random((rows, n)) < 0.3] = -np.inf
        scores[0] = -np.inf
    return scores.astype(np.float32)


@pytest.mark.parametrize(
    "kind", ["distinct", "many ties", "mostly nothing", "mostly forbidden", "some forbidden"]
)
@given(
    rows=st.integers(1, 4),
    n=st.integers(300, 2_500),
    k=st.integers(1, 40),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=repeats(40, 10))
def test_top_k_of_long_rows_matches_a_sort(kind: str, rows: int, n: int, k: int, seed: int) -> None:
    scores = drawn(kind, rows, n, seed)
    assert top_k(scores, k).tolist() == rank_items(scores, k)


def test_minus_zero_ties_with_zero() -> None:
    scores = np.full((1, 2_000), -1, np.float32)
    scores[0, [3, 1_500]] = [-0.0, 0.0]
    assert top_k(scores, 2).tolist() == [[3, 1_500]]
    assert top_k(scores[:, :4], 1).tolist() == [[3]]


@pytest.mark.parametrize("k", [1, 25, 500, 6_000])
def test_a_large_row_of_distinct_scores(k: int) -> None:
    scores = np.random.default_rng(0).permutation(5_000).astype(np.float32)[None]
    best = np.argsort(-scores[0])[:k].tolist()
    assert top_k(scores, k).tolist() == [best + [-1] * (k - len(best))]


def test_rows_may_be_a_view() -> None:
    wide = np.random.default_rng(0).normal(size=(6, 4_000)).astype(np.float32)
    assert top_k(wide[::2, 100:3_000], 9).tolist() == rank_items(wide[::2, 100:3_000], 9)
