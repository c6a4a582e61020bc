"""Tests of the cost of each kind of work, and of the text about a sum."""

from __future__ import annotations

import pytest

from batchrec_dagster.personalize.prices import Prices, estimate_training_hours, summarize_costs

PRICES = Prices()
V1, V2 = "aws-user-personalization", "aws-user-personalization-v2"


def test_the_hours_that_aws_published_are_about_the_estimate() -> None:
    for rows, published_hours in ((100_000, 2.135), (25_000_000, 53.9)):
        assert estimate_training_hours(rows) == pytest.approx(published_hours, rel=0.1)
    # A training that took longer may take as long again. A short last training proves nothing.
    assert estimate_training_hours(100_000, last_hours=9.0) == 9
    assert estimate_training_hours(100_000, last_hours=0.5) == estimate_training_hours(100_000)


def test_a_sum_names_its_parts_each_with_its_price() -> None:
    costs = [PRICES.price_import("interactions", 10**7), PRICES.price_training(V2, 0, 10**6)]
    costs += [PRICES.price_recommendations(V2, 1000), PRICES.price_recommendations(V1, 3000)]
    # The price of segments is for all users, for each segment.
    costs += [PRICES.price_segments(2, 100_000), PRICES.price_training(V1, 4.0, 10**6)]
    assert summarize_costs(costs) == (
        "about 6.51 USD: importing 10.00 MB of interactions 0.00, training"
        " aws-user-personalization-v2 on 1,000,000 interactions 2.00, recommending to 1,000 users"
        " 0.15, recommending to 3,000 users 0.20, 2 segments of 100,000 users 3.20, training"
        " aws-user-personalization for 4.00 hours 0.96"
    )
