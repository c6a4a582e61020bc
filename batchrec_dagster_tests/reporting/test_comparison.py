"""What the comparison of two editions says of their quality."""

from __future__ import annotations

import pytest

from batchrec_dagster.personalize.evidence import MetricEstimate
from batchrec_dagster.reporting.comparison import Comparison, PairedDifference
from batchrec_dagster.reporting.editions import EditionDiff

NO_DIFF = EditionDiff(1, 1, [], [], [], True, None, 0, 0, 0, 0, [], [])


@pytest.mark.parametrize(
    ("estimate", "says"),
    [
        (
            MetricEstimate(0.0123, 0.002, 0.02),
            "for the same 61 held-out people, NDCG@25 differs by +0.0123 (95% interval +0.0020 to"
            " +0.0200): more than chance",
        ),
        (
            MetricEstimate(-0.01, -0.03, 0.01),
            "for the same 61 held-out people, NDCG@25 differs by -0.0100 (95% interval -0.0300 to"
            " +0.0100): this may be chance",
        ),
        (
            MetricEstimate(0.0, 0.0, 0.0),
            "for the same 61 held-out people, NDCG@25 is the same for each",
        ),
        (
            MetricEstimate(0.1),
            "for the same 61 held-out people, NDCG@25 differs by +0.1000; they are too few for an"
            " interval",
        ),
    ],
)
def test_the_difference_for_the_same_people(estimate: MetricEstimate, says: str) -> None:
    assert compare(PairedDifference(61, estimate)).quality == says


def test_why_quality_is_not_compared() -> None:
    assert compare(is_same_model=True).quality == "the model is the same, and so are its metrics"
    assert compare(has_other_data=True).quality.startswith("NDCG@25 was measured on other data")
    obstacles = ["interactions.min_rating changed from 3 to 4"]
    assert compare(obstacles=obstacles).quality == (
        "the metrics cannot be compared: interactions.min_rating changed from 3 to 4"
    )
    assert compare().quality.startswith("NDCG@25 was measured on the same interactions, but")


def compare(
    difference: PairedDifference | None = None,
    obstacles: list[str] | None = None,
    *,
    is_same_model: bool = False,
    has_other_data: bool = False,
) -> Comparison:
    return Comparison(
        "shop, edition 1",
        "shop, trial a",
        NO_DIFF,
        [],
        obstacles or [],
        is_same_model,
        has_other_data,
        difference,
    )
