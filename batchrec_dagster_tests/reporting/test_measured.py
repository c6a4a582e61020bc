"""What is said of the engine and of the tested users."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.personalize.measurements import (
    AMAZON,
    EMBEDDED,
    HEADER,
    name_engine,
    read_header,
)
from batchrec_dagster.reporting.insight.measured import (
    describe_counted_events,
    describe_engine,
    describe_tested_users,
)


def answer(**headers: str) -> dict[str, Any]:
    return {"metrics": {}, "ResponseMetadata": {"HTTPHeaders": headers}}


def test_the_engine_is_the_one_that_answered() -> None:
    local_answer = answer(**{HEADER: '{"success":[]}'})
    assert name_engine(local_answer, "https://example.com", on_aws=False) == EMBEDDED
    assert read_header(local_answer) == {"success": []}
    assert name_engine(answer(), "https://example.com", on_aws=True) == AMAZON
    other = name_engine(answer(), "https://example.com", on_aws=False)
    assert other == "the Personalize at https://example.com"
    assert read_header(answer()) == {}


def test_what_the_metrics_count_is_said_where_it_is_unusual() -> None:
    assert describe_counted_events([], (), AMAZON) == ""
    assert describe_counted_events(["Buy"], ["Buy"], EMBEDDED) == "The metrics count Buy alone."
    assert describe_counted_events(["a", "b"], (), AMAZON).startswith(
        "Amazon Personalize's metrics count all events, not only a and b: outcomes"
    )


def test_who_measured_and_on_whom_is_said_in_words() -> None:
    assert describe_engine(EMBEDDED) == "batchrec's embedded engine, not by Amazon"
    assert describe_engine(AMAZON) == AMAZON
    assert [*map(describe_tested_users, (211, 1, None))] == [
        "211 held-out users",
        "1 held-out user: a small sample",
        "held-out users; how many is not known",
    ]
    assert describe_tested_users(0).startswith("no user: ")
