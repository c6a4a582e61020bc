"""The best of each row, against a plain sort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from batchrec_dagster.local_personalize.learning.ranking import top


def plainly(scores: npt.NDArray[np.float32], k: int) -> list[list[int]]:
    """By falling score, then rising column; -1 for what is not there."""
    out = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda column: (-row[column], column))
        chosen = [column for column in order if row[column] > -np.inf][:k]
        out.append(chosen + [-1] * (k - len(chosen)))
    return out


# Few distinct values, so that ties are everywhere.
tied = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]),
)


@given(tied, st.integers(0, 15))
def test_top_is_a_plain_sort(scores: npt.NDArray[np.float32], k: int) -> None:
    assert top(scores, k).tolist() == plainly(scores, k)


def test_a_large_row_of_distinct_scores() -> None:
    scores = np.random.default_rng(0).permutation(5_000).astype(np.float32)[None]
    assert top(scores, 25).tolist() == [np.argsort(-scores[0])[:25].tolist()]
