"""StreamingTopK, compared with a sort of the whole stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.learning import ranking
from batchrec_dagster.local_personalize.learning.ranking import StreamingTopK


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=0, max_size=9), max_size=12),
    st.integers(0, 30),
    st.integers(1, 4),
)
def test_matches_a_sort_of_the_whole_stream(stream: list[list[int]], size: int, room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "MIN_BUFFER", room)
        patch.setattr(ranking, "COMPACTED_AT_ONCE", 7)
        found = StreamingTopK(2, size)
        whole = np.zeros((2, 0), np.float32)
        for values in stream:
            part = np.array([values, values[::-1]], np.float32).reshape(2, len(values))
            who = np.arange(whole.shape[1], whole.shape[1] + len(values), dtype=np.int32) + 100
            found.add(who, part)
            whole = np.concatenate([whole, part], axis=1)
    expected = [100 + np.argsort(-row, kind="stable")[:size] for row in whole]
    assert [row.tolist() for row in found.sort_labels()] == [row.tolist() for row in expected]


def test_memory_is_bounded() -> None:
    found = StreamingTopK(3, 2000)
    for start in range(0, 200_000, 1000):
        found.add(np.arange(start, start + 1000, dtype=np.int32), np.ones((3, 1000), np.float32))
        assert found._values.shape[1] <= 2 * 2000
    assert [row.tolist() for row in found.sort_labels()] == [list(range(2000))] * 3
