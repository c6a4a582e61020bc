"""Runs that take one thing to be otherwise: the time, what Personalize costs, what it sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from batchrec_dagster.pipeline import personalize_resource
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.steps import training


@contextmanager
def short_filter_history(interactions: int) -> Iterator[None]:
    """Runs take it that Personalize's filter sees this many interactions of a user, as on AWS."""
    with patch.object(personalize_resource, "ALL_INTERACTIONS", interactions):
        yield


@contextmanager
def paid_personalize() -> Iterator[None]:
    """The embedded Personalize costs what AWS's does."""
    with patch.object(PersonalizeResource, "on_aws", property(lambda self: True)):
        yield


@contextmanager
def clock_of_trainings(**time: float) -> Iterator[None]:
    """Runs think it is later by this time, such as `days=6`, when they ask for a model's age."""
    later = datetime.now(UTC) + timedelta(**time)
    with patch.object(training, "now", lambda: later):
        yield
