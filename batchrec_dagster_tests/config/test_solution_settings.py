"""What a YAML declares: invalid settings fail at load time, with file, line and fix."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.steps.batch_jobs import build_solution_config, build_solution_name
from batchrec_dagster.steps.list_jobs import DeclaredFilter, declare_filter
from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
)

# Attributes, and the line and the setting that the message names.


def declare_lists_filter(**recommendations: Any) -> DeclaredFilter | None:
    ratings = {"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}}
    settings = {"name": "shop", "ratings": ratings, "recommendations": recommendations}
    return declare_filter(Pipeline.model_validate(settings).user_lists[0])


def test_personalize_leaves_out_of_seen_items_what_its_filters_can_say() -> None:
    everything = declare_lists_filter()
    assert everything is not None
    assert declare_lists_filter(exclude_seen=True) == everything
    assert declare_lists_filter(rules={"max_per": {}}) == everything
    assert declare_lists_filter(exclude_seen=False) is None
    assert declare_lists_filter(exclude_seen={"days": 60}) is None
    bought = declare_lists_filter(exclude_seen={"events": ["buy", "rent"]})
    assert bought is not None
    assert bought.expression == 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("buy","rent")'
    assert bought.ending != everything.ending


def test_event_weights_are_personalizes_events_config() -> None:
    solution = Solution.model_validate({"event_weights": {"view": 0.3, "purchase": 1}})
    assert build_solution_config(solution.training.parameters)["eventsConfig"] == {
        "eventParametersList": [
            {"eventType": "purchase", "weight": 1.0},
            {"eventType": "view", "weight": 0.3},
        ]
    }


def test_success_trains_nothing_else() -> None:
    solution = Solution.model_validate({"success": ["purchase"]})
    assert solution.training == Solution().training
    assert fingerprint(solution) != fingerprint(Solution())


def test_a_threshold_of_event_values_is_personalizes_and_another_solution() -> None:
    recipe, settings = Solution.model_validate({"event_value_threshold": 0.5}).training
    assert build_solution_config(settings)["eventValueThreshold"] == "0.5"
    assert build_solution_name("shop", recipe, settings) != build_solution_name("shop", recipe, {})
    weights = {"event_weights": {"watch": 1}, "event_value_threshold": 0.5}
    event = {"eventType": "watch", "weight": 1.0, "eventValueThreshold": 0.5}
    config = build_solution_config(Solution.model_validate(weights).training.parameters)
    assert config["eventsConfig"] == {"eventParametersList": [event]}
    assert "eventValueThreshold" not in config  # Personalize refuses both
