"""What the tests of alerts share: a pipeline with alerts."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.config import Pipeline
from batchrec_dagster_tests.guard.builders import declaration
from batchrec_dagster_tests.guard.servers.inbox import ALERTS


def make_pipeline(**attributes: Any) -> Pipeline:
    return Pipeline.model_validate(
        declaration("shop", "ratings.csv", **{"alerts": ALERTS, **attributes})
    )
