"""What is said of the engine, the data and the tested users."""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster.personalize.measurements import (
    AMAZON,
    EMBEDDED,
    HEADER,
    name_engine,
    read_evidence,
)
from batchrec_dagster.reporting.provenance import Provenance, describe_counted_events
from batchrec_dagster_tests.guard.seams.editions import make_edition


def answer(**headers: str) -> dict[str, Any]:
    return {"metrics": {}, "ResponseMetadata": {"HTTPHeaders": headers}}


def test_the_engine_is_the_one_that_answered() -> None:
    local_answer = answer(**{HEADER: '{"all/users":3}'})
    assert name_engine(local_answer, "https://example.com", on_aws=False) == EMBEDDED
    assert read_evidence(local_answer) == {"all/users": 3}
    assert name_engine(answer(), "https://example.com", on_aws=True) == AMAZON
    other = name_engine(answer(), "https://example.com", on_aws=False)
    assert other == "the Personalize at https://example.com"
    assert read_evidence(answer()) == {}


def test_what_the_metrics_count_is_said_where_it_is_unusual() -> None:
    assert describe_counted_events([], (), AMAZON) == ""
    assert describe_counted_events(["Buy"], ["Buy"], EMBEDDED) == " The metrics count Buy alone."
    assert describe_counted_events(["a", "b"], (), AMAZON).startswith(
        " Amazon Personalize's metrics count all events, not only a and b: outcomes"
    )
    evidence = {"all/users": 211.0, "all/ndcg": 0.2, "all/popular": 0.1, "all/difference": 0.1}
    edition = make_edition({"engine": EMBEDDED, "evidence": evidence, "success": ["a", "b"]})
    measured_on = Provenance.of_edition(edition).lines["Measured on"]
    assert measured_on == "211 held-out users, by a and b alone"


@pytest.mark.parametrize(
    ("provenance", "model", "data", "measurement"),
    [
        (
            Provenance(EMBEDDED, "sample://hetrec", "1997-09-17", "2009-01-05", 211),
            "trained by batchrec's embedded engine, not by Amazon",
            "generated, no real people (sample://hetrec), 1997-09-17 to 2009-01-05",
            "211 held-out users",
        ),
        (
            Provenance(AMAZON, "s3://b/orders.csv", None, None, None),
            "trained by Amazon Personalize",
            "s3://b/orders.csv",
            "held-out users; how many is not known",
        ),
        (
            Provenance(None, None, None, None, 1),
            "not known what trained it",
            "not known which",
            "1 held-out user: a small sample",
        ),
    ],
)
def test_it_is_said_in_words(
    provenance: Provenance, model: str, data: str, measurement: str
) -> None:
    assert provenance.lines == {"Model": model, "Data": data, "Measured on": measurement}
