"""What a step's line in the log of a run says."""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster.pipeline.step_story import describe_step

RATINGS = {"source": "orders.csv", "dagster/row_count": 39_426}
LISTS = {"edition": 3, "dagster/row_count": 7_164, "users": 597}
MODEL = {"recipe": "aws-similar-items", "training_seconds": 5.75}
IMPORT = {"dataset_group_name": "shop-1", "outcome": "imported"}


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({**RATINGS, "outcome": "copied"}, "orders.csv: copied, 39,426 rows"),
        ({"dagster/row_count": 300}, "stored 300 rows"),
        ({"dagster/row_count": 702, "users": 702}, "stored 702 users"),
        (
            {
                "dagster/row_count": 5,
                "rows_read": 1_008,
                "left_out_by_reason": {"rating below min_rating": 1_003},
            },
            "kept 5 of 1,008 rows, 1,003 left out: rating below min_rating",
        ),
        (
            {"dagster/row_count": 300, "outcome": "unchanged: not prepared again"},
            "unchanged: not prepared again, 300 rows",
        ),
        (
            {**IMPORT, "items_outcome": "unchanged", "users_outcome": "imported"},
            "interactions, users: imported; items: unchanged",
        ),
        (
            {**MODEL, "outcome": "trained", "ndcg_at_25": 0.1557, "popularity_ndcg_at_25": 0.0687},
            "aws-similar-items: trained in 5.8 s, NDCG@25 0.1557, of the most popular items 0.0687",
        ),
        ({**MODEL, "outcome": "unchanged"}, "aws-similar-items: unchanged"),
        ({**LISTS, "outcome": "inferred"}, "published edition 3: 7,164 rows for 597 users"),
        (
            {**LISTS, "outcome": "unchanged: not inferred again"},
            "unchanged: not inferred again, edition 3 stays: 7,164 rows for 597 users",
        ),
        (
            {**LISTS, "outcome": "rolled back to edition 1"},
            "rolled back to edition 1, published as edition 3: 7,164 rows for 597 users",
        ),
        ({"bytes": 12}, "stored its result"),
    ],
)
def test_a_line_says_what_the_step_did_with_its_numbers(
    metadata: dict[str, Any], line: str
) -> None:
    assert describe_step(metadata) == line
