"""An experiment in a pipeline: two nights, its arms in the table, the sinks and the outcomes."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.config import Pipeline
from batchrec_dagster.reporting.experiment import describe_control
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster_tests.guard.builders import (
    declaration,
)
from batchrec_dagster_tests.guard.editions import make_edition


def test_a_control_with_popular_items_needs_no_model_of_them() -> None:
    for solution in ({}, {"recipe": "aws-user-personalization"}):
        for control in ("popular", "none"):
            experiment = {"name": "a", "control": control}
            attributes = declaration(
                "shop", "ratings.csv", solution=solution, experiment=experiment
            )
            Pipeline.model_validate(attributes)


def test_an_experiment_says_which_popular_items_its_control_gets() -> None:
    def describe(number: int, name: str = "holdout", **facts: Any) -> Edition:
        experiment = {"name": name, "control": "popular"}
        return make_edition({"number": number, "experiment": experiment, **facts})

    old, new = (describe(number, popularity={"days": 30}) for number in (1, 2))
    assert [*describe_control([new, old, describe(3, "other")], "holdout")] == [
        "In edition 2 these are the most popular items of the last 30 days."
    ]
    assert not [*describe_control([], "holdout")]
