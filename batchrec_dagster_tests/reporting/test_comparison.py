"""What the comparison of two editions says of their quality."""

from __future__ import annotations

from batchrec_dagster.reporting.comparison import Comparison
from batchrec_dagster.reporting.editions import EditionDiff

NO_DIFF = EditionDiff(1, 1, [], [], [], True, None, 0, 0, 0, 0, [], [])


def test_why_quality_is_not_compared() -> None:
    assert compare(is_same_model=True).quality == "the model is the same, and so are its metrics"
    assert compare(has_other_data=True).quality.startswith("NDCG@25 was measured on other data")
    obstacles = ["interactions.min_rating changed from 3 to 4"]
    assert compare(obstacles=obstacles).quality == (
        "the metrics cannot be compared: interactions.min_rating changed from 3 to 4"
    )
    assert compare().quality.startswith("NDCG@25 was measured on the same interactions, but")


def compare(
    obstacles: list[str] | None = None,
    *,
    is_same_model: bool = False,
    has_other_data: bool = False,
) -> Comparison:
    return Comparison(
        "shop, edition 1",
        "other_shop, edition 1",
        NO_DIFF,
        [],
        obstacles or [],
        is_same_model,
        has_other_data,
    )
