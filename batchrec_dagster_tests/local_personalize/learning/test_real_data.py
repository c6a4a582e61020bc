"""On real data, personalization beats popularity; of MovieLens, test_pipeline.py says so."""

from __future__ import annotations

import polars as pl
import pytest

from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.guard.builders import real_data
from batchrec_dagster_tests.guard.repeats import IS_LONG
from batchrec_dagster_tests.local_personalize.learning.support import train_popular

pytestmark = pytest.mark.slow

NDCG = "normalized_discounted_cumulative_gain_at_25"


@pytest.mark.skipif(not IS_LONG, reason="make test-long: test_pipeline.py says so of MovieLens")
def test_personalization_beats_popularity_by_half() -> None:
    """Clicks and watches, in Personalize's columns."""
    file = real_data("personalize-interactions") / "interactions.csv"
    frame = pl.read_csv(file, infer_schema=False)
    data = Interactions.from_frame(
        frame.select("USER_ID", "ITEM_ID", pl.col("TIMESTAMP").cast(pl.Int64))
    )
    ours = train("aws-user-personalization", data, {}).metrics[NDCG]
    assert ours > 1.5 * train_popular(data).metrics[NDCG] > 0
