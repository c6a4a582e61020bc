"""Interactions without times: `columns.timestamp: none`."""

from __future__ import annotations

import dagster as dg
import pytest

from batchrec_dagster.local_personalize.engine import blend
from batchrec_dagster.preparation.layout import CONSTANT_TIME
from batchrec_dagster_tests.guard.builders import Project, declaration, metadata, refresh
from batchrec_dagster_tests.local_personalize.engine.support import interactions_of


@pytest.mark.parametrize("times", [True, False])
def test_recency_counts_only_where_there_are_times(times: bool) -> None:
    # The newest item of each user says what comes next.
    rows = [
        (f"u{user}", f"i{(user + step) % 50}", step if times else CONSTANT_TIME)
        for user in range(200)
        for step in range(12)
    ]
    model, measurements = blend.train(interactions_of(rows), None, {}, lambda _: None)
    assert measurements.metrics
    assert any(model.blend.exponents.values()) == times


@pytest.mark.slow
def test_the_report_says_that_there_are_no_times(
    project: Project, instance: dg.DagsterInstance
) -> None:
    rows = "".join(f"{user},{item}\n" for user in range(60) for item in range(user % 7, 80, 3))
    (project.root / "played.csv").write_text("user_id,item_id\n" + rows)
    ratings = {"source": "played.csv", "columns": {"timestamp": "none"}}
    project.declare(declaration("shop", "played.csv", ratings=ratings, interactions={}))
    result = refresh(project, "shop", instance, report=True)
    assert metadata(result, "raw_ratings")["timestamp_unit"] == "none"
    assert metadata(result, "interactions")["timestamp_unit"] == "none"
    page = (project.storage / "shop/curated/report/index.html").read_text()
    assert "without times, so that what is recent counts no more" in page
    assert "played.csv" in page
