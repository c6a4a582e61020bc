"""On real data, personalization beats popularity."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster_tests.support import real_data

NDCG = "normalized_discounted_cumulative_gain_at_25"


def movielens() -> pl.DataFrame:
    """MovieLens: the films that people liked."""
    ratings = pl.read_csv(real_data("ml-latest-small") / "ratings.csv")
    return ratings.filter(pl.col("rating") >= 3.5).select(
        USER_ID=pl.col("userId").cast(pl.String),
        ITEM_ID=pl.col("movieId").cast(pl.String),
        TIMESTAMP="timestamp",
    )


def events() -> pl.DataFrame:
    """Clicks and watches, in Personalize's columns."""
    frame = pl.read_csv(
        real_data("personalize-interactions") / "interactions.csv", infer_schema=False
    )
    return frame.select("USER_ID", "ITEM_ID", pl.col("TIMESTAMP").cast(pl.Int64))


@pytest.mark.parametrize("frame", [movielens, events])
def test_personalization_beats_popularity_by_half(frame: Callable[[], pl.DataFrame]) -> None:
    data = Interactions.from_frame(frame())
    ours, popular = (
        train(recipe, data, {}).metrics[NDCG]
        for recipe in ("aws-user-personalization", "aws-popularity-count")
    )
    assert ours > 1.5 * popular > 0
