"""The numbers of published lists that Dagster plots before all others, run by run.

Dagster sorts plots by the name of the metadata, capital letters before small ones. So these names
start with one, and are the titles of the plots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec_dagster.personalize.evidence import COVERAGE, NDCG, read_popular_ndcg

COST = "Cost of the run (USD)"
COVERED = "Coverage (share of all items)"
FAILED = "Failed users (share)"
QUALITY = "NDCG@25"
POPULAR_QUALITY = "NDCG@25 of the most popular items"
NAMES = (COST, COVERED, FAILED, QUALITY, POPULAR_QUALITY)


def build_headline_numbers(
    about: Mapping[str, Any], users: int | None, cost_usd: float
) -> dict[str, float]:
    """The numbers of an edition, by the titles of their plots. What is not known has none.

    about: the metadata of the edition. Its metrics are those of the model that made it.
    users: how many users have a list; None for lists that are not for users.
    cost_usd: what the run had paid on AWS when it published them.
    """
    metrics = about.get("metrics") or {}
    failed = about.get("failed_users", 0)
    numbers = {
        QUALITY: metrics.get(NDCG),
        POPULAR_QUALITY: read_popular_ndcg(about),
        COVERED: metrics.get(COVERAGE),
        FAILED: None if users is None else failed / max(users + failed, 1),
        COST: cost_usd,
    }
    return {name: float(number) for name, number in numbers.items() if number is not None}
