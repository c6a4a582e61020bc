"""Changes for runs in this process: the clock, Personalize's costs, and its filter's limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from batchrec_dagster.pipeline import personalize_resource
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.steps.model import training


@contextmanager
def short_filter_history(interactions: int) -> Iterator[None]:
    """Make runs assume that Personalize's filter sees only this many interactions of a user.

    On AWS, the filter has such a limit.
    """
    with patch.object(personalize_resource, "ALL_INTERACTIONS", interactions):
        yield


@contextmanager
def paid_personalize() -> Iterator[None]:
    """Make runs treat the embedded Personalize as AWS's, which costs money."""
    with patch.object(PersonalizeResource, "on_aws", property(lambda self: True)):
        yield


@contextmanager
def clock_of_trainings(**time: float) -> Iterator[None]:
    """Move forward the clock that runs use to compute a model's age.

    time: the distance, such as `days=6`.
    """
    later = datetime.now(UTC) + timedelta(**time)
    with patch.object(training, "now", lambda: later):
        yield
