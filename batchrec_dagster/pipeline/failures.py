"""Turns the errors of the rooms below, which know no Dagster, into failures of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.storage.extras import ExtraMissingError
from batchrec_dagster.storage.object_store import StorageError

# Their messages tell the user what to do, and a retry of the same run would not help.
EXPECTED_ERRORS = (
    ExtraMissingError,
    PersonalizeError,
    PreparationError,
    SourceError,
    StepError,
    StorageError,
)


@contextmanager
def expected_errors_as_failures() -> Iterator[None]:
    """Raises dg.Failure with the message of an expected error, so that no traceback is shown."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        details = error.details if isinstance(error, PersonalizeError) else {}
        raise dg.Failure(str(error), metadata=details, allow_retries=False) from error
